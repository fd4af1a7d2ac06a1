"""Whitened distance of the window statistics to the nearest of a few kinds of normal: the strongest member measured here.

The statistics of training windows are rotated onto their principal axes and each axis is divided by its standard
deviation (Ledoit & Wolf 2004 shrinkage, plus a ridge of a tenth of the mean variance, so that axes in which training
never moved do not shout). In that space a machine that works in several regimes makes several clouds, so training keeps
the centres of ``prototypes`` clusters (k-means), and the score is the distance to the nearest, per axis (root mean
square). With one prototype it is Mahalanobis' distance. Decision 0004 has the measurements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from sklearn.cluster import MiniBatchKMeans
from sklearn.covariance import ledoit_wolf_shrinkage

from service.detectors.base import Progress, silent
from service.detectors.features import Features
from service.detectors.statistics import WindowStatistics, least
from service.domain import F32, F64

LEAST_WINDOWS = 64
CHUNK = 4096  # windows per matrix product: bounds memory
WINDOWS_PER_PROTOTYPE = 4


class MahalanobisDetector:
    """Root mean square whitened distance of a window's statistics to the nearest prototype."""

    default_name = "mahalanobis"
    # Training settings this family takes as options.
    takes = ("seed",)

    def __init__(
        self,
        *,
        name: str | None = None,
        spans: Sequence[int] = (5, 25, 100),
        prototypes: int = 64,
        ridge: float = 0.1,
        most_rows: int = 8000,
        most_axes: int = 640,
        seed: int = 0,
    ) -> None:
        """``most_axes``: with more columns than this the remaining axes share one standard deviation."""
        self.name = name or self.default_name
        self.prototypes = prototypes
        self.ridge = ridge
        self.most_rows = most_rows
        self.most_axes = most_axes
        self.seed = seed
        self._statistics = WindowStatistics(spans, deviations=True)
        self._centre = np.zeros(0, np.float32)
        self._axes = np.zeros((0, 0), np.float32)  # (columns, axes)
        self._inverse = np.zeros(0, np.float32)  # 1 / standard deviation of each axis
        self._rest = 0.0  # the same for everything off the axes; 0 when the axes are complete
        self._kinds = np.zeros((0, 0), np.float32)  # (prototypes, axes), whitened

    def fit(self, features: Features, *, progress: Progress = silent) -> None:
        """Learn centre, covariance and prototypes. Raises ``NotEnoughData`` under 64 windows."""
        least(features, LEAST_WINDOWS, self.name)
        self._statistics.fit(features)
        chosen = np.linspace(0, len(features) - 1, min(len(features), self.most_rows)).astype(np.int64)
        columns = self._statistics.transform(features.take(chosen)).astype(np.float64)
        centre = columns.mean(axis=0)
        columns -= centre
        self._whiten(columns)
        self._centre = centre.astype(np.float32)
        progress(self.name, 1, 2, "whitened")
        whitened = (columns.astype(np.float32) @ self._axes) * self._inverse
        self._kinds = self._clusters(whitened)
        progress(self.name, 2, 2, f"{len(self._kinds)} kinds of normal")

    def _clusters(self, whitened: F32) -> F32:
        count = min(self.prototypes, len(whitened) // WINDOWS_PER_PROTOTYPE, len(np.unique(whitened, axis=0)))
        if count <= 1:
            return np.zeros((1, whitened.shape[1]), np.float32)  # the mean
        clusters = MiniBatchKMeans(count, n_init=1, max_iter=30, random_state=self.seed).fit(whitened)
        return np.ascontiguousarray(clusters.cluster_centers_, np.float32)

    def _whiten(self, columns: F64) -> None:
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
        self._axes = np.ascontiguousarray(axes, np.float32)
        self._inverse = (1.0 / np.sqrt(np.maximum(values, 0.0) + ridge)).astype(np.float32)

    def score(self, features: Features) -> F64:
        """Float64 (n,): the distance per axis; below 1 on data like the training windows."""
        columns = self._columns(features)
        scores = np.empty(len(columns))
        for start in range(0, len(columns), CHUNK):
            part = columns[start : start + CHUNK]
            along = part @ self._axes
            squared = self._squared(along * self._inverse).min(axis=1).astype(np.float64)
            if self._rest:
                off = np.square(part).sum(axis=1, dtype=np.float64) - np.square(along).sum(axis=1, dtype=np.float64)
                squared += self._rest**2 * np.maximum(off, 0.0)
            scores[start : start + CHUNK] = np.sqrt(np.maximum(squared, 0.0) / len(self._centre))
        return scores

    def attribute(self, features: Features) -> F64:
        """Float64 (n, dims): the squared distance, split among the metrics.

        The whitened difference is rotated back to the statistic each coordinate resembles most; the squares still add up to
        the squared distance (Garthwaite & Koch 2016), and each metric owns its statistics.
        """
        columns = self._columns(features)
        along = columns @ self._axes
        whitened = along * self._inverse
        nearest = self._kinds[self._squared(whitened).argmin(axis=1)]
        back = (whitened - nearest) @ self._axes.T
        if self._rest:
            back += np.float32(self._rest) * (columns - along @ self._axes.T)
        return self._statistics.per_metric(np.square(back), features.dims)

    def _squared(self, whitened: F32) -> F32:
        """float32 (n, prototypes): squared distances."""
        squared: F32 = np.einsum("ij,ij->i", whitened, whitened)[:, None] + np.einsum("ij,ij->i", self._kinds, self._kinds)
        squared -= np.float32(2.0) * (whitened @ self._kinds.T)
        return squared

    def _columns(self, features: Features) -> F32:
        if not len(self._kinds):
            raise RuntimeError(f"the {self.name} detector is not fitted")
        columns = self._statistics.transform(features)
        columns -= self._centre
        return columns

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Statistics' scale, centre, axes, their standard deviations and the prototypes."""
        if not len(self._kinds):
            raise RuntimeError(f"the {self.name} detector is not fitted")
        told, arrays = self._statistics.state()
        kept = {f"statistics/{key}": value for key, value in arrays.items()}
        kept |= {"centre": self._centre, "axes": self._axes, "inverse": self._inverse, "kinds": self._kinds}
        return {"statistics": told, "rest": self._rest}, kept

    def restore(self, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """The inverse of ``state``."""
        under = {key.removeprefix("statistics/"): value for key, value in arrays.items() if key.startswith("statistics/")}
        self._statistics.restore(settings["statistics"], under)
        self._rest = float(settings["rest"])
        self._centre, self._axes = arrays["centre"], arrays["axes"]
        self._inverse, self._kinds = arrays["inverse"], arrays["kinds"]
