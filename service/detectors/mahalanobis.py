"""Whitened L1 distance of the window statistics: the strongest single detector measured here, and among the cheapest.

The statistics of training windows are rotated onto their principal axes and each axis is divided by its standard
deviation (Ledoit & Wolf 2004 shrinkage, plus a ridge of a tenth of the mean variance, so that axes in which training
never moved do not shout). The score is the mean absolute coordinate: L1 rather than Mahalanobis' L2, because one extreme
axis should not outweigh many moderately strange ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from sklearn.covariance import ledoit_wolf_shrinkage

from service.detectors.base import Progress, silent
from service.detectors.features import Features
from service.detectors.statistics import WindowStatistics, least
from service.domain import F32, F64

LEAST_WINDOWS = 64
CHUNK = 8192  # windows per matrix product: bounds memory


class MahalanobisDetector:
    """Mean absolute whitened statistic of a window."""

    default_name = "mahalanobis"

    def __init__(
        self,
        *,
        name: str | None = None,
        spans: Sequence[int] = (5, 25, 100),
        ridge: float = 0.1,
        most_rows: int = 8000,
        most_axes: int = 512,
        seed: int = 0,
    ) -> None:
        """``most_axes``: with more columns than this the remaining axes share one standard deviation."""
        self.name = name or self.default_name
        self.ridge = ridge
        self.most_rows = most_rows
        self.most_axes = most_axes
        self.seed = seed
        self._statistics = WindowStatistics(spans)
        self._centre = np.zeros(0, np.float32)
        self._axes = np.zeros((0, 0), np.float32)  # (columns, axes)
        self._inverse = np.zeros(0, np.float32)  # 1 / standard deviation of each axis
        self._rest = 0.0  # the same for everything off the axes; 0 when the axes are complete

    def fit(self, features: Features, *, progress: Progress = silent) -> None:
        """Learn centre and covariance of the statistics. Raises ``NotEnoughData`` under 64 windows."""
        least(features, LEAST_WINDOWS, self.name)
        self._statistics.fit(features)
        if len(features) > self.most_rows:
            chosen = np.sort(np.random.default_rng(self.seed).choice(len(features), self.most_rows, replace=False))
            features = features.take(chosen)
        columns = self._statistics.transform(features).astype(np.float64)
        centre = columns.mean(axis=0)
        columns -= centre
        width = columns.shape[1]
        covariance = columns.T @ columns / len(columns)
        shrinkage = ledoit_wolf_shrinkage(columns, assume_centered=True)
        level = np.trace(covariance) / width
        covariance *= 1.0 - shrinkage
        covariance.flat[:: width + 1] += shrinkage * level
        kept = min(self.most_axes, width)
        values, axes = eigh(covariance, subset_by_index=(width - kept, width - 1), overwrite_a=True)
        ridge = self.ridge * level + 1e-12
        self._rest = 0.0
        if kept < width:
            left = max(level * width - values.sum(), 0.0) / (width - kept)
            self._rest = float(1.0 / np.sqrt(left + ridge))
        self._centre = centre.astype(np.float32)
        self._axes = np.ascontiguousarray(axes, np.float32)
        self._inverse = (1.0 / np.sqrt(np.maximum(values, 0.0) + ridge)).astype(np.float32)
        progress(self.name, 1, 1, "fitted")

    def score(self, features: Features) -> F64:
        """Float64 (n,): mean absolute whitened statistic; about 0.8 on data like the training windows."""
        columns = self._columns(features)
        scores = np.empty(len(columns))
        for start in range(0, len(columns), CHUNK):
            part = columns[start : start + CHUNK]
            along = part @ self._axes
            total = np.abs(along * self._inverse).sum(axis=1, dtype=np.float64)
            if self._rest:
                total += self._rest * np.abs(part - along @ self._axes.T).sum(axis=1, dtype=np.float64)
            scores[start : start + CHUNK] = total / len(self._centre)
        return scores

    def attribute(self, features: Features) -> F64:
        """Float64 (n, dims): squared whitened statistics, rotated back to the statistic each of them resembles most and summed over
        each metric's statistics. They add up to the squared Mahalanobis distance (Garthwaite & Koch 2016)."""
        columns = self._columns(features)
        along = columns @ self._axes
        back = (along * self._inverse) @ self._axes.T
        if self._rest:
            back += np.float32(self._rest) * (columns - along @ self._axes.T)
        return self._statistics.per_metric(np.square(back), features.dims)

    def _columns(self, features: Features) -> F32:
        if not len(self._centre):
            raise RuntimeError(f"the {self.name} detector is not fitted")
        columns = self._statistics.transform(features)
        columns -= self._centre
        return columns

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Statistics' scale, centre, axes and their standard deviations."""
        if not len(self._centre):
            raise RuntimeError(f"the {self.name} detector is not fitted")
        told, arrays = self._statistics.state()
        kept = {f"statistics/{key}": value for key, value in arrays.items()}
        kept |= {"centre": self._centre, "axes": self._axes, "inverse": self._inverse}
        return {"statistics": told, "rest": self._rest}, kept

    def restore(self, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """The inverse of ``state``."""
        under = {key.removeprefix("statistics/"): value for key, value in arrays.items() if key.startswith("statistics/")}
        self._statistics.restore(settings["statistics"], under)
        self._rest = float(settings["rest"])
        self._centre, self._axes, self._inverse = arrays["centre"], arrays["axes"], arrays["inverse"]
