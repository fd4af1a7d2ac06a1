"""Sliding windows over many entities at once: pure, no I/O, no clock, no names (an entity is a slot number here).

Semantics (time is a grid row, ``floor(event time / interval)``):

- A window is the ``window`` rows that end at a row r with ``(r + phase) % stride == 0``. It is due when a record arrives
  whose row is r or later, once ``window`` rows have passed since the run began.
- With ``early``, a window also ends at a row that lies far from the last row of the newest window, and another one ends a stride
  later (``early_windows.py``).
- A row that was already seen is a duplicate and dropped.
- A row older than the newest fills its place when it is at most ``lateness`` rows late; windows emitted before do not change. A
  row later than that, or from before the run began, is counted and dropped.
- Missing rows, up to ``max_gap`` in sequence, hold the last seen value of each metric, masked. A longer gap ends the run: the
  next row begins a new one, and older rows are dropped.
- A metric missing from a row holds its last seen value of this run, masked; NaN when this run has none.

The rows lie in window buffers (``window_buffers.py``): ``capacity * (5 * dims + 8) + 80`` bytes per slot, ``capacity = keep +
slack``. 100,000 entities of 8 metrics with window 100 and max_gap 5 take 630 MB.
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
from service.stream.window_buffers import COLUMNS, EMPTY, FREE, NO_OFFSET, OLDEST, PARTITION, max_due_per_row, push_rows

MAX_FREE_ARRAYS = 16  # kept for the windows of later batches


@dataclass(frozen=True, slots=True)
class Shape:
    """How windows are cut. ``lateness`` and ``max_gap`` are rows; ``lateness`` is at most a window: a later row enters none.

    ``slack`` rows are written between two moves of the buffer; 0 means a quarter of a window, at least 16. Raises ``ValueError``
    for a larger ``lateness``.
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
        """Rows of a slot's buffer."""
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
    """The window buffers of all slots. A slot is opened with its phase and partition, fed rows, and closed for reuse."""

    def __init__(self, shape: Shape, *, max_slots: int, early: EarlyWindows | None = None, batch_bytes: int = 32_000_000) -> None:
        """``early``: when windows are due between those of the grid; None: never."""
        self.shape = shape
        self._early = early or EarlyWindows(np.zeros((1, shape.dims), np.float32), 0.0)
        self._max_early = MOST_EARLY if early is not None else 0
        self._max_due_per_row = int(max_due_per_row(shape.max_gap, shape.stride, self._max_early))
        self._counts: I64 = np.zeros((1, 5), np.int64)  # by partition: LATE … TAKEN
        self._max_slots = max_slots
        fitting = min(1024, batch_bytes // shape.bytes_per_window)
        self._per_batch = max(fitting, self._max_due_per_row)
        self._free: list[int] = []
        self._opened = 0
        self._head: I64 = _reserved((max_slots, COLUMNS), np.int64)
        self._values: F32 = _reserved((max_slots, shape.capacity, shape.dims), np.float32)
        self._mask: Mask = _reserved((max_slots, shape.capacity, shape.dims), np.bool_)
        self._offsets: I64 = _reserved((max_slots, shape.capacity), np.int64)
        self._pool = ArrayPool(self._per_batch * shape.bytes_per_window, max_free=MAX_FREE_ARRAYS)
        nothing: I64 = np.empty(0, np.int64)
        self._push(0, nothing, nothing, nothing, np.empty((0, shape.dims), np.float32), nothing, self._empty_due(1))  # compiles

    def __len__(self) -> int:
        return self._opened - len(self._free)

    @property
    def max_due_per_stride(self) -> int:
        """Upper bound of the windows that are due per entity and stride."""
        return min(1 + self._max_early, self.shape.stride)

    @property
    def counts(self) -> I64:
        """Counts since the start, of all partitions: int64 (5,), ``LATE`` … ``TAKEN``."""
        return np.asarray(self._counts.sum(axis=0))

    def counts_of(self, partition: int) -> I64:
        """The counts of one partition."""
        return self._counts[partition].copy() if partition < len(self._counts) else np.zeros(5, np.int64)

    @property
    def buffers(self) -> tuple[I64, F32, Mask, I64]:
        """Heads, values, masks and offsets of every slot. Read-only, and valid until the next ``open`` or ``push``."""
        return self._head, self._values, self._mask, self._offsets

    @property
    def heads(self) -> I64:
        """int64 (slots ever opened, ``COLUMNS``); the ``PARTITION`` of a closed slot is ``FREE``. Read-only."""
        return self._head[: self._opened]

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers of all slots ever opened: the most they occupy."""
        return self._opened * self.shape.bytes_per_slot

    def open(self, *, phase: int, partition: int, table: int = 0) -> int | None:
        """A slot without rows, or None when all ``max_slots`` are in use. ``table``: which table of ``early`` applies to it."""
        if self._free:
            slot = self._free.pop()
        elif self._opened < self._max_slots:
            slot = self._opened
            self._opened += 1
        else:
            return None
        if partition >= len(self._counts):
            self._counts = np.vstack([self._counts, np.zeros((partition + 1 - len(self._counts), 5), np.int64)])
        self._head[slot] = (EMPTY, 0, 0, NO_OFFSET, phase, partition, 0, 0, 0, table)
        return slot

    def close(self, slot: int) -> None:
        """Drop the slot's rows and free the slot."""
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
        A window completed by a record with ``offset < resume_at`` is not returned: it was emitted before.
        """
        done, due = 0, []
        rows, values = np.ascontiguousarray(rows), np.ascontiguousarray(values, np.float32)
        while done < len(slots):
            # The most that these rows can make due.
            out = self._empty_due(min(self._per_batch, (len(slots) - done) * self._max_due_per_row))
            done, written = self._push(done, slots, rows, offsets, values, resume_at, out)
            if written:
                due.append(_first(out, written))
        return due

    def _empty_due(self, room: int) -> Due:
        slots, end_rows, first_offsets, last_offsets = np.empty((4, room), np.int64)
        shape = (room, self.shape.window, self.shape.dims)
        block, entries = self._pool.borrow(), math.prod(shape)
        values, mask = block[: 4 * entries].view(np.float32), block[4 * entries : 5 * entries].view(np.bool_)
        return Due(slots, end_rows, first_offsets, last_offsets, values.reshape(shape), mask.reshape(shape))

    def _push(self, done: int, slots: I64, rows: I64, offsets: I64, values: F32, resume_at: I64, out: Due) -> tuple[int, int]:
        shape = self.shape
        done_and_written: tuple[int, int] = push_rows(
            done, slots, rows, offsets, values, resume_at, self._head, self._values, self._mask, self._offsets, self._counts,
            shape.window, shape.stride, shape.max_gap, shape.lateness, shape.keep, shape.min_coverage,
            self._early.inverse, self._early.threshold, self._max_early,
            out.slots, out.end_rows, out.first_offsets, out.last_offsets, out.values, out.mask,
        )  # fmt: skip
        return done_and_written


def _reserved(shape: tuple[int, ...], dtype: Any) -> Any:
    """An array of zeros that takes up memory only where it is written. Growing an array instead would block everything while the
    new part is filled, 50 ms at 100,000 entities. Not reserved against the memory limit, as most of it may never be written."""
    no_reserve = 0x4000 if sys.platform == "linux" else 0  # Python 3.11 does not name MAP_NORESERVE
    count = math.prod(shape)
    space = mmap.mmap(-1, count * np.dtype(dtype).itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve)
    return np.frombuffer(space, dtype, count).reshape(shape)


def _first(due: Due, n: int) -> Due:
    offsets = due.first_offsets[:n], due.last_offsets[:n]
    return Due(due.slots[:n], due.end_rows[:n], *offsets, due.values[:n], due.mask[:n])
