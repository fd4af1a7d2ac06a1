"""What training knows of each metric that data health needs: whether it moves at all, and whether it is there.

A window's metric is *still* when all its observed values are equal, and *empty* when it has none. Half of a window must be
observed for a word on stillness. The windows that serving looks at (``stream/data_health/stuck_metrics.py``) are judged by the
same words.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from service.compiled import kernel
from service.domain import F32, I64, Mask, Series

RARELY = 1000  # what happened in less than one of so many windows is not usual; of fewer windows nothing is known


def least_observed(window: int) -> int:
    """Observed rows that a window of ``window`` rows needs for a word on whether a metric moves."""
    return max(2, (window + 1) // 2)


class MetricActivity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Training windows counted: all of them, and by metric those judged for stillness, those still, those empty."""

    windows: int
    judged: tuple[int, ...]
    still: tuple[int, ...]
    empty: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.judged) == len(self.still) == len(self.empty):
            raise ValueError("the counts are not of the same metrics")

    @property
    def dims(self) -> int:
        """How many metrics were counted."""
        return len(self.judged)

    @property
    def moves(self) -> Mask:
        """Bool (dims,): still in less than 1 of 1,000 windows, of at least 1,000."""
        return np.array(
            [judged >= RARELY and still * RARELY < judged for judged, still in zip(self.judged, self.still, strict=True)]
        )

    @property
    def filled(self) -> Mask:
        """Bool (dims,): empty in less than 1 of 1,000 windows, of at least 1,000."""
        return np.array([self.windows >= RARELY and empty * RARELY < self.windows for empty in self.empty])


def usual(series: Sequence[Series], window: int) -> MetricActivity:
    """Count every window of ``series``, which share one schema; their gaps are NaN."""
    counts = np.zeros((3, series[0].values.shape[1]), np.int64)
    for one in series:
        _count(np.ascontiguousarray(one.values, np.float32), window, least_observed(window), counts)
    judged, still, empty = (tuple(row) for row in counts.tolist())
    return MetricActivity(sum(max(0, len(one.values) - window + 1) for one in series), judged, still, empty)


@kernel
def _count(values: F32, window: int, least: int, counts: I64) -> None:
    """Add to ``counts`` (3, dims) the windows judged, still and empty."""
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
