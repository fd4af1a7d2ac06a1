"""How far the newest row lies outside everything that training ever saw.

Scaled values are clipped at ten standard deviations, and window statistics are new to a detector wherever the load is; neither
tells a metric that spikes within what it has done before from one that goes where it has never been. So every metric keeps
the range of its normal rows: inside it counts nothing, outside as many of its own ranges as the value lies beyond. Decision 0004
has the measurements.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.detectors.features.windows import Features
from service.domain import F32, I64

# A metric that lies further out than this many of its ranges says "far", not how far.
MOST_RANGES = 30.0


class TrainingRange:
    """Smallest and largest value of each metric, by entity where it has a scale of its own: ``low``, ``high`` and ``inverse``
    (one over the range), each float32 (tables, dims) in the metrics' own units; row 0 is everybody's."""

    def __init__(self) -> None:
        self.low, self.high, self.inverse = (np.zeros((0, 0), np.float32) for _ in range(3))

    def fit(self, features: Features) -> None:
        """Learn from every row between the first and the last window of each series.

        A range is at least one scale of the metric, so that one that stood still is not infinitely far when it moves; metrics
        that are left out of the scale are left out here.
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
            narrow = 1.0 / (self.high - self.low)
        self.inverse = np.fmin(narrow, features.inverse).astype(np.float32).reshape(tables, dims)

    def ranges(self, features: Features) -> F32:
        """float32 (n, dims): how many of its ranges each metric's newest value lies outside; 0 inside, and where there is none."""
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
    """Of every series its owner and its rows from the start of its first window to the end of its last."""
    series: I64 = features.series
    first = np.flatnonzero(np.diff(series, prepend=-1))
    last = np.append(first[1:], len(series)) - 1
    starts, ends, owner = features.ends[first] - features.window, features.ends[last], features.owner[first]
    return [(int(table), features.rows[start:end]) for table, start, end in zip(owner, starts, ends, strict=True)]
