"""Finds metrics that are constant or all null over the newest window, reading the window buffers on demand. Pure.

A metric is constant when all observed values of the newest window are equal and at least half of its rows are observed. It is all
null when no value is observed although the entity's rows arrived. Rows are read from the newest backwards, up to the first value
that differs: a metric that varies costs little.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.compiled import kernel
from service.detectors.windowing.metric_activity import least_observed_rows
from service.domain import F32, I64, Mask
from service.stream.window_buffers import BASE, EMPTY, NEWEST, START
from service.stream.windows import Windows

# The state of one metric of one entity. UNKNOWN: cannot be decided; TOO_FEW: equal values, but too few; VARIES: not stuck, or not
# watched; CONSTANT and ALL_NULL: over the whole window.
UNKNOWN, TOO_FEW, VARIES, CONSTANT, ALL_NULL = range(5)

U8 = NDArray[np.uint8]


def stuck_states(windows: Windows, slots: I64, moves: Mask, filled: Mask) -> tuple[U8, I64]:
    """The states of the metrics of ``slots``, uint8 (n, dims), and since which row one is constant or all null, int64 (n, dims).

    ``moves``, ``filled``: bool (dims,), the metrics watched for being constant and for being all null.
    """
    window, dims = windows.shape.window, windows.shape.dims
    states, since = np.full((len(slots), dims), VARIES, np.uint8), np.zeros((len(slots), dims), np.int64)
    if moves.any() or filled.any():
        find_stuck(slots, moves, filled, window, least_observed_rows(window), *windows.buffers, states, since)
    return states, since


def compile_loop(windows: Windows) -> None:
    """Compile the loop: half a second by which the first survey would otherwise delay a batch."""
    every = np.ones(windows.shape.dims, np.bool_)
    stuck_states(windows, np.empty(0, np.int64), every, every)


@kernel
def find_stuck(
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
        oldest = max(head[START] - head[BASE], 0)  # the first place of this run that is still buffered
        begin = max(oldest, end - window + 1)
        full = head[NEWEST] - head[START] + 1 >= window
        for j in range(moves.shape[0]):
            if not (moves[j] or filled[j]):
                continue
            observed, first, place = 0, end, end
            differs = False
            while place >= begin:
                if mask[place, j]:
                    if observed and values[place, j] != values[first, j]:
                        differs = True
                        break
                    observed += 1
                    first = place
                    if not moves[j]:
                        break
                place -= 1
            if differs or (observed and not moves[j]):
                continue
            if observed >= least and full:
                states[n, j] = CONSTANT
            elif observed:
                states[n, j] = TOO_FEW
                continue
            else:
                present = 0
                for at in range(begin, end + 1):
                    present += kept[at] >= 0
                if not (full and filled[j] and present >= least):
                    states[n, j] = UNKNOWN
                    continue
                states[n, j] = ALL_NULL
                first = begin
            while place >= oldest:  # since when?
                if mask[place, j]:
                    if not observed or values[place, j] != values[first, j]:
                        break
                    first = place
                elif not observed:
                    first = place
                place -= 1
            since[n, j] = head[BASE] + first
