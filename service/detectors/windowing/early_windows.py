"""Early windows: between two windows of the grid one more is due at once where the metrics jump.

A score that is held for a stride knows of a fault half a stride late on average, and of a fault shorter than a stride perhaps
never. Scoring every row costs ten times as much; whether a row lies far from the one last looked at is a few nanoseconds a
metric. So a row at which the mean change of the metrics since the newest window's last row (in robust standard deviations, each
counting for ``MOST_CHANGE`` at most) exceeds ``beyond`` ends a window, too; ``MOST_EARLY`` of them at most between two of
the grid. ``beyond`` is learned: what one normal stride in twenty exceeds. A stride after each of them one more is due: an alert
needs two windows whose newest rows are disjoint, and need not wait for the grid. Decision 0014 has the measurements.

Only metrics observed in both rows count. What is carried forward may be lost in a restart, and the same records must make the
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

MOST_EARLY = 2  # between two windows of the grid, and as many that follow: an entity gone wild costs five times as much at most
LONGEST_STRIDE = 60  # rows: which of the newest were early is kept in the bits of one number
MOST_CHANGE = 10.0


@dataclass(frozen=True, slots=True, eq=False)
class EarlyWindows:
    """When a window is due early. ``inverse``: float32 (tables, dims), one over the scale of each metric, 0 for those left out;
    ``tables``: which of them is an entity's own, 0 is everybody else's; ``beyond``: the sum over the metrics of their changes that
    a row must exceed."""

    inverse: F32
    beyond: float
    tables: Mapping[str, int] = field(default_factory=dict)


def early(scaler: Scaler, beyond: float | None) -> EarlyWindows | None:
    """``beyond``: the mean change that ``learn`` found; None: no window is due early."""
    if beyond is None:
        return None
    return EarlyWindows(scaler.inverse, beyond * (scaler.dims - len(scaler.left_out)), scaler.entities)


def learn(series: Sequence[Series], scaler: Scaler, *, window: int, stride: int, share: float) -> float | None:
    """The mean change since the grid's last row that ``share`` of the normal strides exceed somewhere.

    None where nothing lies between two windows, or where the rows are too few to tell. And where the stride is longer than half a
    window (or ``LONGEST_STRIDE``): after a restart two strides are read again for certain, and what is due must follow from them.
    """
    if share == 0 or stride == 1 or stride > min(window // 2, LONGEST_STRIDE):
        return None
    parts: list[F64] = []
    for one in series:
        values, mask = carry_forward(one.values)
        inverse = scaler.inverse[scaler.entities.get(one.entity, 0)]
        parts.append(_largest(values, mask, one.start_row + phase_of(one.entity), stride, inverse))
    largest = np.concatenate(parts)
    if len(largest) * share < 1:
        return None
    return float(np.quantile(largest, 1 - share)) / (scaler.dims - len(scaler.left_out))


@kernel
def changed(values: F32, mask: Mask, at: int, since: int, inverse: F32) -> float:
    """How far the metrics of row ``at`` lie from those of row ``since``, summed."""
    total = 0.0
    for j in range(inverse.shape[0]):
        if mask[at, j] and mask[since, j]:
            total += min(abs(values[at, j] - values[since, j]) * inverse[j], MOST_CHANGE)
    return total


@kernel
def _largest(values: F32, mask: Mask, phase: int, stride: int, inverse: F32) -> F64:
    """The largest change since the grid's last row, for every whole stride."""
    first = -phase % stride
    out = np.zeros(max((values.shape[0] - first) // stride, 0))
    for k in range(out.shape[0]):
        for i in range(1, stride):
            out[k] = max(out[k], changed(values, mask, first + k * stride + i, first + k * stride, inverse))
    return out
