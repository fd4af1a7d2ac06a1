"""The tapes that windows are cut from, and the loop that writes them: compiled (numba), and free of the interpreter's lock.

Each slot owns a tape: ``capacity`` rows of values, mask and record offsets, contiguous, written from left to right. When
the end is reached the newest ``keep - 1`` rows move to the front, so a window is always one contiguous piece, at a cost
of about ``keep / slack`` rows copied per row, and 1.25 instead of the 2 times the memory of a double-written ring.
``keep = window + max_gap + lateness`` rows are enough to rebuild every later window from the records alone
(``oldest offset``); only the carried value of a metric that has been silent for longer than that is not.
"""

from __future__ import annotations

import numpy as np

from service.compiled import kernel
from service.detectors.windowing.early_windows import LONGEST_STRIDE, total_change
from service.domain import F32, I64, Mask

# Columns of a slot's head. ``LOOKED``: the newest row at which a window was due, ``EARLY``: how many were since the grid's last
# row, ``RECENT``: which of the newest rows were early (bits); ``TABLE``: which of the tables of scales holds for the slot.
NEWEST, START, BASE, OLDEST, PHASE, PARTITION, LOOKED, EARLY, RECENT, TABLE = range(10)
COLUMNS = 10
# What became of the records, counted in this order; those that only refill count neither as late, duplicate nor taken.
LATE, DUPLICATE, RESETS, LOW_COVERAGE, TAKEN = range(5)

EMPTY = -(2**62)  # the newest row of a slot that has none
NO_OFFSET = 2**62  # the oldest offset of a slot that needs none
FREE = -1  # the partition of a slot that no entity has


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
    """Make room: the newest ``keep - 1`` rows move to the front."""
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
def _jumped(head: I64, values: F32, mask: Mask, inverse: F32, beyond: float) -> bool:
    """Whether the newest row lies far from the one last looked at."""
    looked = head[LOOKED] - head[BASE]
    return looked >= 0 and total_change(values, mask, head[NEWEST] - head[BASE], looked, inverse[head[TABLE]]) > beyond


@kernel
def most_per_row(max_gap: int, stride: int, most_early: int) -> int:
    """Most windows that one row makes due: its own, and in the gap before it those of the grid and those that follow early ones."""
    return min(max_gap // stride + 3 * most_early, max_gap) + 1


@kernel
def _look(head: I64, end: int, values: F32, mask: Mask, stride: int, inverse: F32, beyond: float, most_early: int) -> bool:
    """Whether a window is due at row ``end``, the next one of its slot; what that follows from is kept in the head."""
    head[RECENT] = (head[RECENT] & (1 << LONGEST_STRIDE) - 1) << 1  # bit k: whether the row k rows ago was early
    if (end + head[PHASE]) % stride == 0:
        head[LOOKED], head[EARLY] = end, 0
        return True
    if end == head[NEWEST] and head[EARLY] < most_early and _jumped(head, values, mask, inverse, beyond):
        head[LOOKED], head[EARLY], head[RECENT] = end, head[EARLY] + 1, head[RECENT] | 1
        return True
    if head[RECENT] >> stride & 1:
        head[LOOKED] = end
        return True
    return False


@kernel
def due_places(
    values: F32, mask: Mask, phase: int, table: int, stride: int, inverse: F32, beyond: float, most_early: int
) -> Mask:  # fmt: skip
    """bool (n,): the rows of one run, none of them missing, at which a window would be due once it is full."""
    head = np.zeros(COLUMNS, np.int64)
    head[PHASE], head[TABLE] = phase, table
    due = np.zeros(values.shape[0], np.bool_)
    for i in range(values.shape[0]):
        head[NEWEST] = i
        due[i] = _look(head, i, values, mask, stride, inverse, beyond, most_early)
    return due


@kernel
def push_rows(
    begin: int, slots: I64, rows: I64, offsets: I64, new: F32, resume_at: I64,
    heads: I64, all_values: F32, all_mask: Mask, all_offsets: I64, counts: I64,
    window: int, stride: int, max_gap: int, lateness: int, keep: int, min_coverage: float,
    inverse: F32, beyond: float, most_early: int,
    out_slots: I64, out_rows: I64, out_first: I64, out_last: I64, out_values: F32, out_mask: Mask,
) -> tuple[int, int]:  # fmt: skip
    """Feed rows from ``begin`` on until all are in or the output is full; (the next row to feed, windows written)."""
    made = 0
    most = out_slots.shape[0]
    per_row = most_per_row(max_gap, stride, most_early)
    capacity = all_values.shape[1]
    for at in range(begin, slots.shape[0]):
        if made + per_row > most:
            return at, made
        slot, row, offset = slots[at], rows[at], offsets[at]
        head, values, mask, kept = heads[slot], all_values[slot], all_mask[slot], all_offsets[slot]
        newest, count = head[NEWEST], counts[head[PARTITION]]
        is_new = offset >= resume_at[at]
        count[TAKEN] += is_new
        if newest == EMPTY or row - newest > max_gap + 1:  # a run begins
            if newest != EMPTY:
                count[RESETS] += 1
            head[NEWEST] = head[START] = head[BASE] = head[LOOKED] = row
            head[OLDEST], head[EARLY], head[RECENT] = offset, 0, 0
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
                    head[OLDEST] = min(head[OLDEST], offset)  # of a window of one row nothing else may be kept
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
                for j in range(new.shape[1]):  # what this row lacks stays carried
                    if not np.isnan(new[at, j]):
                        values[place, j] = new[at, j]
                        mask[place, j] = True
                kept[place] = offset
                head[OLDEST] = min(head[OLDEST], offset)
                for later in range(place + 1, newest - head[BASE] + 1):
                    _carry(values, mask, later)
            continue
        for end in range(first, row + 1):
            if not _look(head, end, values, mask, stride, inverse, beyond, most_early):
                continue
            if not is_new or end < head[START] + window - 1:  # told before, or not full yet
                continue
            begin_at = end - window + 1 - head[BASE]
            earliest, latest = NO_OFFSET, -1
            out_values[made] = values[begin_at : begin_at + window]
            out_mask[made] = mask[begin_at : begin_at + window]
            observed = out_mask[made].sum()
            for i in range(window):
                if kept[begin_at + i] >= 0:
                    earliest = min(earliest, kept[begin_at + i])
                    latest = max(latest, kept[begin_at + i])
            if observed < min_coverage * (window * mask.shape[1]):
                count[LOW_COVERAGE] += 1
            out_slots[made], out_rows[made] = slot, end
            out_first[made], out_last[made] = earliest, latest
            made += 1
    return slots.shape[0], made
