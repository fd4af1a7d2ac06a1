"""What training knows of each metric for data health: whether it usually moves, and whether it usually has values.

In a window a metric is *still* when all its observed values are equal, and *empty* when it has none. Stillness is only decided
where at least half of the window's rows were observed. Serving applies the same rules (``stream/data_health/stuck_metrics.py``).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from service.compiled import kernel
from service.domain import F32, I64, Mask, Series

# A metric counts as usually moving (or filled) when less than one window in so many was still (or empty), of at least so many.
RARELY = 1000


def least_observed_rows(window: int) -> int:
    """How many rows of a window of ``window`` rows must be observed to decide whether a metric is still."""
    return max(2, (window + 1) // 2)


class MetricActivity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Counts of training windows: ``windows`` in all, and by metric (dims,) those decided on for stillness, still, and empty."""

    windows: int
    decided: tuple[int, ...] = msgspec.field(name="judged")  # the name that bundles of format 6 store
    still: tuple[int, ...]
    empty: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.decided) == len(self.still) == len(self.empty):
            raise ValueError("the counts are not of the same metrics")

    @property
    def dims(self) -> int:
        """How many metrics were counted."""
        return len(self.decided)

    @property
    def moves(self) -> Mask:
        """Bool (dims,): still in less than 1 of 1,000 windows, of at least 1,000."""
        return np.array(
            [decided >= RARELY and still * RARELY < decided for decided, still in zip(self.decided, self.still, strict=True)]
        )

    @property
    def filled(self) -> Mask:
        """Bool (dims,): empty in less than 1 of 1,000 windows, of at least 1,000."""
        return np.array([self.windows >= RARELY and empty * RARELY < self.windows for empty in self.empty])


def count_activity(series: Sequence[Series], window: int) -> MetricActivity:
    """Count every window (``window`` rows, one ending at every row) of ``series``, which share one schema; gaps are NaN."""
    counts = np.zeros((3, series[0].values.shape[1]), np.int64)
    for one in series:
        _count(np.ascontiguousarray(one.values, np.float32), window, least_observed_rows(window), counts)
    decided, still, empty = (tuple(row) for row in counts.tolist())
    return MetricActivity(sum(max(0, len(one.values) - window + 1) for one in series), decided, still, empty)


@kernel
def _count(values: F32, window: int, least: int, counts: I64) -> None:
    """Add to ``counts`` (3, dims) the windows decided on, still and empty."""
    for j in range(values.shape[1]):
        last = differs = -1  # the newest observed row; the newest one before it with another value
        observed = 0
        for i in range(values.shape[0]):
            if not np.isnan(values[i, j]):
                if last >= 0 and values[i, j] != values[last, j]:
                    differs = last
                last = i
                observed += 1
            if i >= window and not np.isnan(values[i - window, j]):
                observed -= 1
            if i < window - 1:
                continue
            if observed == 0:
                counts[2, j] += 1
            elif observed >= least:
                counts[0, j] += 1
                if differs <= i - window:
                    counts[1, j] += 1
