"""How far the newest row lies outside the range of each metric in training.

Scaled values are clipped at ten standard deviations, and a new load gives new window statistics; neither separates a metric that
spikes within its known range from one that leaves it. So each metric's smallest and largest normal value are kept. A value within
them counts 0, one outside counts its distance to them in widths of that range. Decision 0004 has the measurements.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.detectors.features.windows import Features
from service.domain import F32, I64

# The distance is clipped here, in widths of the metric's range: beyond it only that the value is far counts.
MOST_RANGES = 30.0


class TrainingRange:
    """Smallest and largest value of each metric in training, per entity with a scale of its own and pooled.

    ``low``, ``high`` and ``inverse`` (one over the width of the range): float32 (tables, dims), in the metrics' own units; row 0 is
    the pooled range.
    """

    def __init__(self) -> None:
        self.low, self.high, self.inverse = (np.zeros((0, 0), np.float32) for _ in range(3))

    def fit(self, features: Features) -> None:
        """Learn from every row between the first and the last window of each series.

        The width of a range is at least one scale of the metric, so that a metric that stood still is not infinitely far away when
        it moves. Metrics that the scaler leaves out are left out here.
        """
        lows: dict[int, list[F32]] = {}
        highs: dict[int, list[F32]] = {}
        for table, rows in _stretches(features):
            low, high = np.fmin.reduce(rows, axis=0), np.fmax.reduce(rows, axis=0)
            for owner in {0, table}:
                lows.setdefault(owner, []).append(low)
                highs.setdefault(owner, []).append(high)
        tables, dims = features.inverse.shape
        shared = np.fmin.reduce(lows[0], axis=0), np.fmax.reduce(highs[0], axis=0)
        self.low, self.high = (np.tile(one, (tables, 1)).astype(np.float32) for one in shared)
        for owner in lows:
            low, high = np.fmin.reduce(lows[owner], axis=0), np.fmax.reduce(highs[owner], axis=0)
            seen = np.isfinite(low)
            self.low[owner, seen], self.high[owner, seen] = low[seen], high[seen]
        with np.errstate(divide="ignore", invalid="ignore"):
            unbounded = 1.0 / (self.high - self.low)
        self.inverse = np.fmin(unbounded, features.inverse).astype(np.float32).reshape(tables, dims)

    def widths_outside(self, features: Features) -> F32:
        """float32 (n, dims): how far each metric's newest value lies outside its range, in widths of it; 0 inside, or without a
        value.
        """
        newest, owner = features.rows[features.ends - 1], features.owner
        out: F32 = np.maximum(self.low[owner] - newest, newest - self.high[owner])
        out *= self.inverse[owner]
        np.clip(out, 0.0, MOST_RANGES, out=out)
        np.nan_to_num(out, copy=False)
        return out

    def state(self) -> dict[str, NDArray[Any]]:
        """Plain arrays."""
        return {name: getattr(self, name) for name in ("low", "high", "inverse")}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """The inverse of ``state``."""
        self.low, self.high, self.inverse = (np.ascontiguousarray(arrays[name]) for name in ("low", "high", "inverse"))


def _stretches(features: Features) -> list[tuple[int, F32]]:
    """For every series the number of its entity, and its rows from the start of its first window to the end of its last."""
    series: I64 = features.series
    first = np.flatnonzero(np.diff(series, prepend=-1))
    last = np.append(first[1:], len(series)) - 1
    starts, ends, owner = features.ends[first] - features.window, features.ends[last], features.owner[first]
    return [(int(table), features.rows[start:end]) for table, start, end in zip(owner, starts, ends, strict=True)]
