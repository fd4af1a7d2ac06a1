"""Whether metrics move and are there, read from the tapes (``tapes.py``) whenever somebody asks. Pure.

A metric's newest window is still when all its observed values are equal, at least half of its rows being observed; empty when
none is, although the entity's rows came. It is read from its newest row backwards, and no further than to the first value that
differs: what moves costs little.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.compiled import kernel
from service.detectors.windowing.metric_activity import least_observed_rows
from service.domain import F32, I64, Mask
from service.stream.window_buffers import BASE, EMPTY, NEWEST, START
from service.stream.windows import Windows

# How one metric of one entity stands: nothing can be said; some values, all equal, but too few of them; it moves, or is not
# watched; the whole window is still; the whole window is empty.
UNKNOWN, FEW, MOVES, STILL, NULLS = range(5)

U8 = NDArray[np.uint8]


def standing(windows: Windows, slots: I64, moves: Mask, filled: Mask) -> tuple[U8, I64]:
    """How the metrics of ``slots`` stand, uint8 (n, dims), and of those still or empty since which row, int64 (n, dims).

    ``moves``, ``filled``: bool (dims,), the metrics watched for standing still and for being empty.
    """
    window, dims = windows.shape.window, windows.shape.dims
    states, since = np.full((len(slots), dims), MOVES, np.uint8), np.zeros((len(slots), dims), np.int64)
    if moves.any() or filled.any():
        look_back(slots, moves, filled, window, least_observed_rows(window), *windows.buffers, states, since)
    return states, since


def prepare(windows: Windows) -> None:
    """Have the loop compiled: half a second that the first look would otherwise take from the batch behind it."""
    every = np.ones(windows.shape.dims, np.bool_)
    standing(windows, np.empty(0, np.int64), every, every)


@kernel
def look_back(
    slots: I64, moves: Mask, filled: Mask, window: int, least: int,
    heads: I64, all_values: F32, all_mask: Mask, all_offsets: I64, states: U8, since: I64,
) -> None:  # fmt: skip
    """Fill ``states`` and ``since`` for each of ``slots``."""
    for n in range(slots.shape[0]):
        slot = slots[n]
        head, values, mask, kept = heads[slot], all_values[slot], all_mask[slot], all_offsets[slot]
        if head[NEWEST] == EMPTY:
            for j in range(moves.shape[0]):
                states[n, j] = UNKNOWN
            continue
        end = head[NEWEST] - head[BASE]
        oldest = max(head[START] - head[BASE], 0)  # the first place of this run that is still on the tape
        begin = max(oldest, end - window + 1)
        full = head[NEWEST] - head[START] + 1 >= window
        for j in range(moves.shape[0]):
            if not (moves[j] or filled[j]):
                continue
            seen, first, place = 0, end, end
            differs = False
            while place >= begin:
                if mask[place, j]:
                    if seen and values[place, j] != values[first, j]:
                        differs = True
                        break
                    seen += 1
                    first = place
                    if not moves[j]:
                        break
                place -= 1
            if differs or (seen and not moves[j]):
                continue
            if seen >= least and full:
                states[n, j] = STILL
            elif seen:
                states[n, j] = FEW
                continue
            else:
                present = 0
                for at in range(begin, end + 1):
                    present += kept[at] >= 0
                if not (full and filled[j] and present >= least):
                    states[n, j] = UNKNOWN
                    continue
                states[n, j] = NULLS
                first = begin
            while place >= oldest:  # how much longer has it been so?
                if mask[place, j]:
                    if not seen or values[place, j] != values[first, j]:
                        break
                    first = place
                elif not seen:
                    first = place
                place -= 1
            since[n, j] = head[BASE] + first
