"""Sliding windows over many entities at once: pure, no I/O, no clock, no names (an entity is a slot number here).

Semantics (time is a grid row, ``floor(event time / interval)``):

- A window is the ``window`` rows that end at a row r with ``(r + phase) % stride == 0``. It is due when a record arrives
  whose row is r or later, once ``window`` rows have passed since the run began.
- With ``early`` a record that jumps away from the last row of the newest window ends one, too, whatever its row, and the row a
  stride later another (``early.py``).
- A row that was seen already is a duplicate and dropped.
- A row older than the newest fills its place when it is at most ``lateness`` rows late; windows that are out already stay
  as they were. A later one is counted and dropped, and so is one from before the run began.
- Missing rows, up to ``max_gap`` in sequence, hold the last seen value of each metric, masked. More of them end the run:
  the next row begins a new one and nothing older is remembered.
- A metric missing from a row holds its last seen value of this run, masked; NaN when this run never saw it.

The rows lie on tapes (``tapes.py``): ``capacity * (5 * dims + 8) + 80`` bytes a slot, ``capacity = keep + slack``. 100,000
entities of 8 metrics with window 100, max_gap 5: 630 MB.
"""

from __future__ import annotations

import math
import mmap
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.detectors.windowing.early_windows import MOST_EARLY, EarlyWindows
from service.domain import F32, I64, Mask
from service.stream.array_pool import ArrayPool
from service.stream.window_buffers import COLUMNS, EMPTY, FREE, NO_OFFSET, OLDEST, PARTITION, most_per_row, push_rows

MOST_BUFFERS = 16  # kept for the windows of batches to come


@dataclass(frozen=True, slots=True)
class Shape:
    """How windows are cut. ``lateness`` and ``max_gap`` are rows; ``lateness`` is at most a window: a later row would reach none.

    ``slack`` rows are written between two moves of the tape; 0 is a quarter of a window, at least 16.
    """

    dims: int
    window: int
    stride: int
    max_gap: int = 0
    lateness: int = 0
    min_coverage: float = 0.0
    slack: int = 0

    def __post_init__(self) -> None:
        if self.lateness > self.window:
            raise ValueError(f"rows can be at most a window ({self.window}) late, not {self.lateness}")

    @property
    def keep(self) -> int:
        """Rows that every later window may depend on."""
        return self.window + self.max_gap + self.lateness

    @property
    def capacity(self) -> int:
        """Rows on a slot's tape."""
        return self.keep + (self.slack or max(16, self.window // 4))

    @property
    def bytes_per_window(self) -> int:
        """Memory of one window's values and mask."""
        return 5 * self.window * self.dims

    @property
    def bytes_per_slot(self) -> int:
        """Memory of one entity."""
        return self.capacity * (5 * self.dims + 8) + 8 * COLUMNS


@dataclass(frozen=True, slots=True, eq=False)
class Due:
    """Windows that came due, in the order of the records that completed them.

    n of each; ``values`` float32 and ``mask`` bool are (n, window, dims), the rest int64 (n,).
    """

    slots: I64
    end_rows: I64
    first_offsets: I64
    last_offsets: I64
    values: F32
    mask: Mask


class Windows:
    """The tapes of all slots. A slot is opened with its phase and partition, fed rows, and closed to be used again."""

    def __init__(self, shape: Shape, *, most_slots: int, early: EarlyWindows | None = None, batch_bytes: int = 32_000_000) -> None:
        """``early``: when windows are due between those of the grid; None: never."""
        self.shape = shape
        self._early = early or EarlyWindows(np.zeros((1, shape.dims), np.float32), 0.0)
        self._most_early = MOST_EARLY if early is not None else 0
        self._most_per_row = int(most_per_row(shape.max_gap, shape.stride, self._most_early))
        self._counts: I64 = np.zeros((1, 5), np.int64)  # by partition: late, duplicate, resets, low coverage, taken
        self._most = most_slots
        fitting = min(1024, batch_bytes // shape.bytes_per_window)
        self._per_batch = max(fitting, self._most_per_row)
        self._free: list[int] = []
        self._opened = 0
        self._head: I64 = _reserved((most_slots, COLUMNS), np.int64)
        self._values: F32 = _reserved((most_slots, shape.capacity, shape.dims), np.float32)
        self._mask: Mask = _reserved((most_slots, shape.capacity, shape.dims), np.bool_)
        self._offsets: I64 = _reserved((most_slots, shape.capacity), np.int64)
        self._buffers = ArrayPool(self._per_batch * shape.bytes_per_window, most_kept=MOST_BUFFERS)
        nothing: I64 = np.empty(0, np.int64)
        self._push(0, nothing, nothing, nothing, np.empty((0, shape.dims), np.float32), nothing, self._empty_due(1))  # compiles

    def __len__(self) -> int:
        return self._opened - len(self._free)

    @property
    def most_per_stride(self) -> int:
        """How many windows an entity has in a stride whose every row jumps."""
        return min(1 + self._most_early, self.shape.stride)

    @property
    def counts(self) -> I64:
        """What became of the records so far, of all partitions: int64 (5,), ``LATE`` … ``TAKEN``."""
        return np.asarray(self._counts.sum(axis=0))

    def counts_of(self, partition: int) -> I64:
        """The same of one partition."""
        return self._counts[partition].copy() if partition < len(self._counts) else np.zeros(5, np.int64)

    @property
    def tapes(self) -> tuple[I64, F32, Mask, I64]:
        """Heads, values, masks and offsets of every slot; to be read only, and only until the next ``open`` or ``push``."""
        return self._head, self._values, self._mask, self._offsets

    @property
    def heads(self) -> I64:
        """int64 (slots ever opened, ``COLUMNS``); the ``PARTITION`` of a closed slot is ``FREE``. To be read only."""
        return self._head[: self._opened]

    @property
    def nbytes(self) -> int:
        """Bytes of the tapes of all slots ever opened, which is what they take up at most."""
        return self._opened * self.shape.bytes_per_slot

    def open(self, *, phase: int, partition: int, table: int = 0) -> int | None:
        """A slot without rows, or None when all ``most_slots`` are taken. ``table``: which of ``early``'s holds for it."""
        if self._free:
            slot = self._free.pop()
        elif self._opened < self._most:
            slot = self._opened
            self._opened += 1
        else:
            return None
        if partition >= len(self._counts):
            self._counts = np.vstack([self._counts, np.zeros((partition + 1 - len(self._counts), 5), np.int64)])
        self._head[slot] = (EMPTY, 0, 0, NO_OFFSET, phase, partition, 0, 0, 0, table)
        return slot

    def close(self, slot: int) -> None:
        """Forget the slot's rows; the slot is free."""
        self._head[slot] = (EMPTY, 0, 0, NO_OFFSET, 0, FREE, 0, 0, 0, 0)
        self._free.append(slot)

    def oldest_offset(self, partition: int) -> int | None:
        """The oldest record of this partition that a later window needs; None when there is none."""
        head = self.heads
        oldest = np.min(head[:, OLDEST], where=head[:, PARTITION] == partition, initial=NO_OFFSET)
        return None if oldest == NO_OFFSET else int(oldest)

    def push(self, slots: I64, rows: I64, offsets: I64, values: F32, resume_at: I64) -> list[Due]:
        """Feed n rows, in arrival order.

        ``slots``, ``rows``, ``offsets`` and ``resume_at``: int64 (n,); ``values``: float32 (n, dims), NaN where missing.
        A window completed by a record with ``offset < resume_at`` is not returned: it was before.
        """
        done, due = 0, []
        rows, values = np.ascontiguousarray(rows), np.ascontiguousarray(values, np.float32)
        while done < len(slots):
            # As many as these rows can make due at most.
            out = self._empty_due(min(self._per_batch, (len(slots) - done) * self._most_per_row))
            done, made = self._push(done, slots, rows, offsets, values, resume_at, out)
            if made:
                due.append(_first(out, made))
        return due

    def _empty_due(self, most: int) -> Due:
        slots, end_rows, first_offsets, last_offsets = np.empty((4, most), np.int64)
        shape = (most, self.shape.window, self.shape.dims)
        block, entries = self._buffers.lend(), math.prod(shape)
        values, mask = block[: 4 * entries].view(np.float32), block[4 * entries : 5 * entries].view(np.bool_)
        return Due(slots, end_rows, first_offsets, last_offsets, values.reshape(shape), mask.reshape(shape))

    def _push(self, done: int, slots: I64, rows: I64, offsets: I64, values: F32, resume_at: I64, out: Due) -> tuple[int, int]:
        shape = self.shape
        told: tuple[int, int] = push_rows(
            done, slots, rows, offsets, values, resume_at, self._head, self._values, self._mask, self._offsets, self._counts,
            shape.window, shape.stride, shape.max_gap, shape.lateness, shape.keep, shape.min_coverage,
            self._early.inverse, self._early.threshold, self._most_early,
            out.slots, out.end_rows, out.first_offsets, out.last_offsets, out.values, out.mask,
        )  # fmt: skip
        return told


def _reserved(shape: tuple[int, ...], dtype: Any) -> Any:
    """An array of zeros that takes up memory only where it is written: growing one instead would hold up everything else while
    the new part is filled, 50 ms at 100,000 entities. Not reserved from the memory limit either, which it may never reach."""
    no_reserve = 0x4000 if sys.platform == "linux" else 0  # Python 3.11 does not name MAP_NORESERVE
    count = math.prod(shape)
    space = mmap.mmap(-1, count * np.dtype(dtype).itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve)
    return np.frombuffer(space, dtype, count).reshape(shape)


def _first(due: Due, n: int) -> Due:
    offsets = due.first_offsets[:n], due.last_offsets[:n]
    return Due(due.slots[:n], due.end_rows[:n], *offsets, due.values[:n], due.mask[:n])
