"""Whitened distance of the window statistics to the nearest of a few kinds of normal: the strongest member measured here.

A metric that stands still has a range of zero, which is near normal, so the logarithm of its range is one of the statistics.
The statistics of training windows are whitened (``whitening.py``). In that space a machine that works in several
regimes makes several clouds, so training keeps the centres of ``prototypes`` clusters (k-means), and the score is the
distance to the nearest, per axis (root mean square). With one prototype it is Mahalanobis' distance. An entity that shares
the bundle with others is measured against its own centre and spread where training saw enough of it (``own.py``).

Scaled values are clipped, and after a short training every distance is large: what is then left to tell the strange from the
merely new is whether values lie where they have never been (``beyond.py``). That is added to the distance. Decision 0004 has
the measurements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans

from service.detectors.features.entity_whitening import EntityWhitening
from service.detectors.features.statistics import WindowStatistics, group, least
from service.detectors.features.training_range import TrainingRange
from service.detectors.features.whitening import Whitening
from service.detectors.features.windows import Features
from service.domain import F32, F64
from service.progress import Progress, silent

LEAST_WINDOWS = 64
CHUNK = 4096  # windows per matrix product: bounds memory
WINDOWS_PER_PROTOTYPE = 4
# Rows over which a metric that stands still is noticed as such.
STILL_SPAN = 25
# What a row counts whose every metric lies a whole range outside what it was seen to do, in units of the distance. Any figure
# from 3 to 20 does (decision 0004).
BEYOND = 10.0


class MahalanobisDetector:
    """Root mean square whitened distance of a window's statistics to the nearest prototype, and how far its newest row lies outside
    all that was seen."""

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
        most_axes: int = 704,
        seed: int = 0,
    ) -> None:
        """``most_axes``: with more columns than this the remaining axes share one standard deviation."""
        self.name = name or self.default_name
        self.prototypes = prototypes
        self.most_rows = most_rows
        self.seed = seed
        self._statistics = WindowStatistics(spans, deviations=True, still=STILL_SPAN)
        self._whitening = Whitening(ridge=ridge, most_axes=most_axes)
        self._own = EntityWhitening(ridge)
        self._seen = TrainingRange()
        self._kinds = np.zeros((0, 0), np.float32)  # (prototypes, axes), whitened

    def fit(self, features: Features, *, progress: Progress = silent) -> None:
        """Learn centre, covariance and prototypes. Raises ``NotEnoughData`` under 64 windows."""
        least(features, LEAST_WINDOWS, self.name)
        self._statistics.fit(features)
        self._seen.fit(features)
        chosen = np.linspace(0, len(features) - 1, min(len(features), self.most_rows)).astype(np.int64)
        some = features.take(chosen)
        columns = self._statistics.transform(some)
        whitened = self._whitening.fit(columns, some.independent).transform(columns)
        self._own.fit(whitened, some.owner)
        progress(self.name, 1, 2, "whitened")
        self._kinds = self._clusters(whitened)
        progress(self.name, 2, 2, f"{len(self._kinds)} kinds of normal")

    def _clusters(self, whitened: F32) -> F32:
        count = min(self.prototypes, len(whitened) // WINDOWS_PER_PROTOTYPE, len(np.unique(whitened, axis=0)))
        if count <= 1:
            return np.zeros((1, whitened.shape[1]), np.float32)  # the mean
        clusters = MiniBatchKMeans(count, n_init=1, max_iter=30, random_state=self.seed).fit(whitened)
        return np.ascontiguousarray(clusters.cluster_centers_, np.float32)

    def score(self, features: Features) -> F64:
        """Float64 (n,): the distance per axis, plus ``BEYOND`` times the mean of the ranges that metrics lie outside; below 1 on
        data like the training windows."""
        scores = self._distance(features)
        scores += BEYOND * self._seen.ranges(features).mean(axis=1, dtype=np.float64)
        return scores

    def _distance(self, features: Features) -> F64:
        columns = self._columns(features)
        slots = self._own.slots(features.owner)
        scores = np.empty(len(columns))
        for start in range(0, len(columns), CHUNK):
            part = columns[start : start + CHUNK]
            whitened = self._whitening.transform(part)
            nearest = self._squared(whitened).min(axis=1)
            self._own.squared(whitened, slots[start : start + CHUNK], nearest)
            squared = nearest.astype(np.float64)
            if self._whitening.rest:
                squared += np.square(self._off_axes(part, whitened)).sum(axis=1, dtype=np.float64)
            scores[start : start + CHUNK] = np.sqrt(np.maximum(squared, 0.0) / self._statistics.width)
        return scores

    def attribute(self, features: Features) -> F64:
        """Float64 (n, dims): the score, split among the metrics: each owns its statistics' part of the squared distance, and
        how far it lies outside its range."""
        columns = self._columns(features)
        whitened = self._whitening.transform(columns)
        deviations = whitened - self._kinds[self._squared(whitened).argmin(axis=1)]
        slots = self._own.slots(features.owner)
        for slot in np.unique(slots[slots >= 0]):
            deviations[slots == slot] = self._own.deviations(whitened[slots == slot], int(slot))
        back = self._whitening.back(deviations)
        if self._whitening.rest:
            back += self._off_axes(columns, whitened)
        parts = self._statistics.per_metric(np.square(back), features.dims)
        distance = np.sqrt(parts.sum(axis=1, keepdims=True) / self._statistics.width)
        parts /= np.maximum(distance * self._statistics.width, 1e-12)
        parts += self._seen.ranges(features) * (BEYOND / features.dims)
        return parts

    def _off_axes(self, columns: F32, whitened: F32) -> F32:
        """What the axes leave of the columns, in the standard deviation it shares."""
        along = self._whitening.back(whitened / self._whitening.inverse)
        off: F32 = np.float32(self._whitening.rest) * (columns - self._whitening.centre - along)
        return off

    def _squared(self, whitened: F32) -> F32:
        """float32 (n, prototypes): squared distances."""
        squared: F32 = np.einsum("ij,ij->i", whitened, whitened)[:, None] + np.einsum("ij,ij->i", self._kinds, self._kinds)
        squared -= np.float32(2.0) * (whitened @ self._kinds.T)
        return squared

    def _columns(self, features: Features) -> F32:
        if not len(self._kinds):
            raise RuntimeError(f"the {self.name} detector is not fitted")
        return self._statistics.transform(features)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Statistics' scale, whitening, prototypes, and what was seen."""
        if not len(self._kinds):
            raise RuntimeError(f"the {self.name} detector is not fitted")
        told, arrays = self._statistics.state()
        turned, axes = self._whitening.state()
        kept = {f"statistics/{key}": value for key, value in arrays.items()}
        kept |= {f"whitening/{key}": value for key, value in axes.items()}
        kept |= {f"own/{key}": value for key, value in self._own.state().items()}
        kept |= {f"seen/{key}": value for key, value in self._seen.state().items()}
        return {"statistics": told, "whitening": turned}, kept | {"kinds": self._kinds}

    def restore(self, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """The inverse of ``state``."""
        self._statistics.restore(settings["statistics"], group(arrays, "statistics"))
        self._whitening.restore(settings["whitening"], group(arrays, "whitening"))
        self._own.restore(group(arrays, "own"))
        self._seen.restore(group(arrays, "seen"))
        self._kinds = arrays["kinds"]
