"""The window buffers, and the loop that writes them: compiled (numba), without the interpreter's lock.

Each slot has a buffer: ``capacity`` rows of values, mask and record offsets, contiguous, written from front to back. At its end the
newest ``keep - 1`` rows move to the front. So a window is always one contiguous piece; the price is about ``keep / slack`` copied
rows per row, and 1.25 times the memory, where a double-written ring takes 2 times. ``keep = window + max_gap + lateness`` rows are
enough to rebuild every later window from the records alone (``OLDEST`` says from which offset on). Only the carried value of a
metric that was missing for longer than that is lost.
"""

from __future__ import annotations

import numpy as np

from service.compiled import kernel
from service.detectors.windowing.early_windows import LONGEST_STRIDE, total_change
from service.domain import F32, I64, Mask

# Columns of a slot's head. ``NEWEST``: newest row; ``START``: first row of this run; ``BASE``: row at the front of the buffer;
# ``OLDEST``: lowest offset in the buffer; ``LAST_DUE``: newest row at which a window was due; ``EARLY_COUNT``: early windows since
# the last one of the grid; ``EARLY_ROWS``: bit k is set where the row k rows ago ended an early window; ``TABLE``: row of
# ``EarlyWindows.inverse`` that applies.
NEWEST, START, BASE, OLDEST, PHASE, PARTITION, LAST_DUE, EARLY_COUNT, EARLY_ROWS, TABLE = range(10)
COLUMNS = 10
# Counts by partition, in this order. Records that only refill are not counted as late, duplicate or taken.
LATE, DUPLICATE, RESETS, LOW_COVERAGE, TAKEN = range(5)

EMPTY = -(2**62)  # NEWEST of a slot without rows
NO_OFFSET = 2**62  # OLDEST of a slot that needs no record
FREE = -1  # PARTITION of a slot without an entity


@kernel
def _carry(values: F32, mask: Mask, at: int) -> None:
    """Fill the missing entries of row ``at`` from the row before."""
    for j in range(values.shape[1]):
        if not mask[at, j]:
            values[at, j] = values[at - 1, j]


@kernel
def _write(values: F32, mask: Mask, at: int, row: F32) -> None:
    for j in range(row.shape[0]):
        values[at, j] = row[j]
        mask[at, j] = not np.isnan(row[j])


@kernel
def _slide(head: I64, values: F32, mask: Mask, offsets: I64, keep: int) -> None:
    """Make room: move the newest ``keep - 1`` rows to the front."""
    end = head[NEWEST] - head[BASE] + 1
    shift = end - (keep - 1)
    oldest = NO_OFFSET
    for i in range(keep - 1):
        values[i] = values[i + shift]
        mask[i] = mask[i + shift]
        offsets[i] = offsets[i + shift]
        if offsets[i] >= 0:
            oldest = min(oldest, offsets[i])
    head[BASE] += shift
    head[OLDEST] = oldest


@kernel
def _jumped(head: I64, values: F32, mask: Mask, inverse: F32, threshold: float) -> bool:
    """Whether the newest row lies further than ``threshold`` from the row at which a window was last due."""
    last = head[LAST_DUE] - head[BASE]
    return last >= 0 and total_change(values, mask, head[NEWEST] - head[BASE], last, inverse[head[TABLE]]) > threshold


@kernel
def max_due_per_row(max_gap: int, stride: int, max_early: int) -> int:
    """Upper bound of the windows that one row makes due: its own, those of the grid in the gap before it, and those due a stride
    after early ones."""
    return min(max_gap // stride + 3 * max_early, max_gap) + 1


@kernel
def _is_due(head: I64, end: int, values: F32, mask: Mask, stride: int, inverse: F32, threshold: float, max_early: int) -> bool:
    """Whether a window is due at row ``end``; to be called for every row of a run in order, as it updates the head."""
    head[EARLY_ROWS] = (head[EARLY_ROWS] & (1 << LONGEST_STRIDE) - 1) << 1
    if (end + head[PHASE]) % stride == 0:
        head[LAST_DUE], head[EARLY_COUNT] = end, 0
        return True
    if end == head[NEWEST] and head[EARLY_COUNT] < max_early and _jumped(head, values, mask, inverse, threshold):
        head[LAST_DUE], head[EARLY_COUNT], head[EARLY_ROWS] = end, head[EARLY_COUNT] + 1, head[EARLY_ROWS] | 1
        return True
    if head[EARLY_ROWS] >> stride & 1:
        head[LAST_DUE] = end
        return True
    return False


@kernel
def due_mask(
    values: F32, mask: Mask, phase: int, table: int, stride: int, inverse: F32, threshold: float, max_early: int
) -> Mask:  # fmt: skip
    """bool (n,): at which rows of one run without gaps a window is due, full or not."""
    head = np.zeros(COLUMNS, np.int64)
    head[PHASE], head[TABLE] = phase, table
    due = np.zeros(values.shape[0], np.bool_)
    for i in range(values.shape[0]):
        head[NEWEST] = i
        due[i] = _is_due(head, i, values, mask, stride, inverse, threshold, max_early)
    return due


@kernel
def push_rows(
    begin: int, slots: I64, rows: I64, offsets: I64, new: F32, resume_at: I64,
    heads: I64, all_values: F32, all_mask: Mask, all_offsets: I64, counts: I64,
    window: int, stride: int, max_gap: int, lateness: int, keep: int, min_coverage: float,
    inverse: F32, threshold: float, max_early: int,
    out_slots: I64, out_rows: I64, out_first: I64, out_last: I64, out_values: F32, out_mask: Mask,
) -> tuple[int, int]:  # fmt: skip
    """Feed rows from ``begin`` on until all are in or the output is full; (next row to feed, windows written)."""
    written = 0
    room = out_slots.shape[0]
    max_written = max_due_per_row(max_gap, stride, max_early)
    capacity = all_values.shape[1]
    for at in range(begin, slots.shape[0]):
        if written + max_written > room:
            return at, written
        slot, row, offset = slots[at], rows[at], offsets[at]
        head, values, mask, kept = heads[slot], all_values[slot], all_mask[slot], all_offsets[slot]
        newest, count = head[NEWEST], counts[head[PARTITION]]
        is_new = offset >= resume_at[at]
        count[TAKEN] += is_new
        if newest == EMPTY or row - newest > max_gap + 1:  # a run begins
            if newest != EMPTY:
                count[RESETS] += 1
            head[NEWEST] = head[START] = head[BASE] = head[LAST_DUE] = row
            head[OLDEST], head[EARLY_COUNT], head[EARLY_ROWS] = offset, 0, 0
            _write(values, mask, 0, new[at])
            kept[0] = offset
            first = row
        elif row > newest:
            first = newest + 1
            for reached in range(first, row + 1):
                if reached - head[BASE] == capacity:
                    _slide(head, values, mask, kept, keep)
                place = reached - head[BASE]
                if reached == row:
                    _write(values, mask, place, new[at])
                    kept[place] = offset
                    head[OLDEST] = min(head[OLDEST], offset)  # with a window of one row, _slide kept no other
                else:
                    mask[place] = False
                    kept[place] = -1
                _carry(values, mask, place)
                head[NEWEST] = reached
        else:
            place = row - head[BASE]
            inside = row >= head[START] and place >= 0
            if inside and kept[place] >= 0:
                count[DUPLICATE] += is_new
            elif not inside or newest - row > lateness:
                count[LATE] += is_new
            else:
                for j in range(new.shape[1]):  # a metric missing here stays carried
                    if not np.isnan(new[at, j]):
                        values[place, j] = new[at, j]
                        mask[place, j] = True
                kept[place] = offset
                head[OLDEST] = min(head[OLDEST], offset)
                for later in range(place + 1, newest - head[BASE] + 1):
                    _carry(values, mask, later)
            continue
        for end in range(first, row + 1):
            if not _is_due(head, end, values, mask, stride, inverse, threshold, max_early):
                continue
            if not is_new or end < head[START] + window - 1:  # emitted before the restart, or not full yet
                continue
            begin_at = end - window + 1 - head[BASE]
            earliest, latest = NO_OFFSET, -1
            out_values[written] = values[begin_at : begin_at + window]
            out_mask[written] = mask[begin_at : begin_at + window]
            observed = out_mask[written].sum()
            for i in range(window):
                if kept[begin_at + i] >= 0:
                    earliest = min(earliest, kept[begin_at + i])
                    latest = max(latest, kept[begin_at + i])
            if observed < min_coverage * (window * mask.shape[1]):
                count[LOW_COVERAGE] += 1
            out_slots[written], out_rows[written] = slot, end
            out_first[written], out_last[written] = earliest, latest
            written += 1
    return slots.shape[0], written
