"""Early windows: where the metrics jump, a window is due at once instead of at the next row of the grid.

A score that holds for a whole stride reports a fault half a stride late on average, and may miss a fault shorter than a stride.
Scoring every row costs ten times as much, while measuring how far a row lies from the last scored one takes a few nanoseconds a
metric. So a window also ends at a row whose mean change since the newest window's last row exceeds a threshold. The change of a
metric counts in robust standard deviations, ``MOST_CHANGE`` at most; at most ``MOST_EARLY`` such windows lie between two of the
grid. The threshold is learned: one normal stride in twenty exceeds it. A stride after each early window another one is due,
because an alert needs two windows whose newest rows are disjoint and should not have to wait for the grid. Decision 0014 has the
measurements.

Only metrics observed in both rows count. A value carried forward may be lost in a restart, and the same records must make the
same windows due before and after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from service.compiled import kernel
from service.detectors.features.scaler import Scaler
from service.detectors.features.windows import carry_forward
from service.domain import F32, F64, Mask, Series, phase_of

# Between two windows of the grid, and as many a stride after them: an entity that jumps all the time costs five times as much.
MOST_EARLY = 2
LONGEST_STRIDE = 60  # rows: which of the newest rows ended an early window is kept in the bits of one number
MOST_CHANGE = 10.0


@dataclass(frozen=True, slots=True, eq=False)
class EarlyWindows:
    """When a window is due early.

    ``inverse``: float32 (tables, dims), one over the scale of each metric, 0 for those left out; ``threshold``: a window is due
    where the changes, summed over the metrics, exceed it; ``tables``: the row of ``inverse`` of each entity with a scale of its
    own, all others use row 0.
    """

    inverse: F32
    threshold: float
    tables: Mapping[str, int] = field(default_factory=dict)


def early_windows(scaler: Scaler, mean_change: float | None) -> EarlyWindows | None:
    """The rule for a bundle; ``mean_change`` is what ``learn_mean_change`` returned. None: no window is due early."""
    if mean_change is None:
        return None
    return EarlyWindows(scaler.inverse, mean_change * (scaler.dims - len(scaler.left_out)), scaler.entities)


def learn_mean_change(series: Sequence[Series], scaler: Scaler, *, window: int, stride: int, share: float) -> float | None:
    """The mean change since the last row of the grid that ``share`` of the normal strides exceed at some row.

    In robust standard deviations per metric. None where there are no early windows: with ``share`` 0, with no row between two
    windows, with too few rows to estimate it, or with a stride longer than half a window or ``LONGEST_STRIDE`` (a restart is sure
    to read two strides again, and which windows are due must follow from those).
    """
    if share == 0 or stride == 1 or stride > min(window // 2, LONGEST_STRIDE):
        return None
    parts: list[F64] = []
    for one in series:
        values, mask = carry_forward(one.values)
        inverse = scaler.inverse[scaler.entities.get(one.entity, 0)]
        parts.append(_largest_changes(values, mask, one.start_row + phase_of(one.entity), stride, inverse))
    largest = np.concatenate(parts)
    if len(largest) * share < 1:
        return None
    return float(np.quantile(largest, 1 - share)) / (scaler.dims - len(scaler.left_out))


@kernel
def total_change(values: F32, mask: Mask, at: int, since: int, inverse: F32) -> float:
    """How far the metrics of row ``at`` lie from those of row ``since``, in robust standard deviations, summed."""
    total = 0.0
    for j in range(inverse.shape[0]):
        if mask[at, j] and mask[since, j]:
            total += min(abs(values[at, j] - values[since, j]) * inverse[j], MOST_CHANGE)
    return total


@kernel
def _largest_changes(values: F32, mask: Mask, phase: int, stride: int, inverse: F32) -> F64:
    """The largest change since the last row of the grid, for every whole stride: float64 (strides,)."""
    first = -phase % stride
    out = np.zeros(max((values.shape[0] - first) // stride, 0))
    for k in range(out.shape[0]):
        for i in range(1, stride):
            out[k] = max(out[k], total_change(values, mask, first + k * stride + i, first + k * stride, inverse))
    return out
