"""Whitened distance of the window statistics to the nearest of several normal states: the strongest detector measured here.

A metric that stands still has a range of zero, which is near a normal range, so the logarithm of its range is one of the
statistics. The statistics of training windows are whitened (``features/whitening.py``). In that space a machine that works in
several regimes forms several clusters, so training keeps the centres of ``prototypes`` clusters (k-means), and the score is the
distance to the nearest, per axis (root mean square). With one prototype it is Mahalanobis' distance (1936). An entity that shares
the bundle with others is measured against its own mean and axes where it has enough training windows
(``features/entity_whitening.py``).

Scaled values are clipped, and after a short training all new windows are far away. What still separates an anomaly from new normal
data then is whether values lie outside the training range (``features/training_range.py``); that is added to the distance. Decision
0004 has the measurements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans

from service.detectors.features.entity_whitening import EntityWhitening
from service.detectors.features.statistics import WindowStatistics, arrays_under, require_windows
from service.detectors.features.training_range import TrainingRange
from service.detectors.features.whitening import Whitening
from service.detectors.features.windows import Features
from service.domain import F32, F64
from service.progress import Progress, silent

LEAST_WINDOWS = 64
CHUNK = 4096  # windows per matrix product: bounds memory
WINDOWS_PER_PROTOTYPE = 4
STILL_SPAN = 25  # rows over which the logarithm of the range is taken
# What is added to the distance when every metric lies one width of its training range outside it. Any value from 3 to 20 works
# (decision 0004).
OUTSIDE_WEIGHT = 10.0


class MahalanobisDetector:
    """Root mean square whitened distance of a window's statistics to the nearest prototype, plus how far its newest row lies
    outside the training range.

    Options: ``spans``: numbers of newest rows over which means, ranges and standard deviations are taken; ``prototypes``:
    clusters of normal windows, at most (1: Mahalanobis' distance); ``ridge``: added to every axis' variance, as a share of the
    mean variance; ``most_rows``: training windows used, at most; ``most_axes``: whitened axes kept (the others share one standard
    deviation); ``seed`` of the clustering (default: ``training.seed``).

    Example: ``training: {detectors: {mahalanobis: {weight: 4.0, prototypes: 1}}}``
    """

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
        self.name = name or self.default_name
        self.prototypes = prototypes
        self.most_rows = most_rows
        self.seed = seed
        self._statistics = WindowStatistics(spans, deviations=True, still=STILL_SPAN)
        self._whitening = Whitening(ridge=ridge, most_axes=most_axes)
        self._entity_whitening = EntityWhitening(ridge)
        self._training_range = TrainingRange()
        self._prototypes = np.zeros((0, 0), np.float32)  # (prototypes, axes), whitened

    def fit(self, features: Features, *, progress: Progress = silent) -> None:
        """Learn covariance, prototypes and training range. Raises ``NotEnoughData`` under 64 windows."""
        require_windows(features, LEAST_WINDOWS, self.name)
        self._statistics.fit(features)
        self._training_range.fit(features)
        chosen = np.linspace(0, len(features) - 1, min(len(features), self.most_rows)).astype(np.int64)
        chosen_windows = features.take(chosen)
        columns = self._statistics.transform(chosen_windows)
        whitened = self._whitening.fit(columns, chosen_windows.independent).transform(columns)
        self._entity_whitening.fit(whitened, chosen_windows.owner)
        progress(self.name, 1, 2, "whitened")
        self._prototypes = self._clusters(whitened)
        progress(self.name, 2, 2, f"{len(self._prototypes)} prototypes")

    def _clusters(self, whitened: F32) -> F32:
        count = min(self.prototypes, len(whitened) // WINDOWS_PER_PROTOTYPE, len(np.unique(whitened, axis=0)))
        if count <= 1:
            return np.zeros((1, whitened.shape[1]), np.float32)  # the mean
        clusters = MiniBatchKMeans(count, n_init=1, max_iter=30, random_state=self.seed).fit(whitened)
        return np.ascontiguousarray(clusters.cluster_centers_, np.float32)

    def score(self, features: Features) -> F64:
        """Float64 (n,): the distance per axis, plus ``OUTSIDE_WEIGHT`` times the metrics' mean distance outside their training
        range (in widths of it); below 1 on data like the training windows.
        """
        scores = self._distance(features)
        scores += OUTSIDE_WEIGHT * self._training_range.widths_outside(features).mean(axis=1, dtype=np.float64)
        return scores

    def _distance(self, features: Features) -> F64:
        columns = self._columns(features)
        slots = self._entity_whitening.slots(features.owner)
        scores = np.empty(len(columns))
        for start in range(0, len(columns), CHUNK):
            part = columns[start : start + CHUNK]
            whitened = self._whitening.transform(part)
            nearest = self._squared(whitened).min(axis=1)
            self._entity_whitening.squared(whitened, slots[start : start + CHUNK], nearest)
            squared = nearest.astype(np.float64)
            if self._whitening.rest:
                squared += np.square(self._off_axes(part, whitened)).sum(axis=1, dtype=np.float64)
            scores[start : start + CHUNK] = np.sqrt(np.maximum(squared, 0.0) / self._statistics.width)
        return scores

    def attribute(self, features: Features) -> F64:
        """Float64 (n, dims): the score, split among the metrics: the part of the squared distance that comes from a metric's own
        statistics, and how far it lies outside its training range."""
        columns = self._columns(features)
        whitened = self._whitening.transform(columns)
        deviations = whitened - self._prototypes[self._squared(whitened).argmin(axis=1)]
        slots = self._entity_whitening.slots(features.owner)
        for slot in np.unique(slots[slots >= 0]):
            deviations[slots == slot] = self._entity_whitening.deviations(whitened[slots == slot], int(slot))
        rotated = self._whitening.rotate_back(deviations)
        if self._whitening.rest:
            rotated += self._off_axes(columns, whitened)
        parts = self._statistics.per_metric(np.square(rotated), features.dims)
        distance = np.sqrt(parts.sum(axis=1, keepdims=True) / self._statistics.width)
        parts /= np.maximum(distance * self._statistics.width, 1e-12)
        parts += self._training_range.widths_outside(features) * (OUTSIDE_WEIGHT / features.dims)
        return parts

    def _off_axes(self, columns: F32, whitened: F32) -> F32:
        """What the axes leave of the columns, divided by the standard deviation that the other axes share."""
        along = self._whitening.rotate_back(whitened / self._whitening.inverse)
        off: F32 = np.float32(self._whitening.rest) * (columns - self._whitening.centre - along)
        return off

    def _squared(self, whitened: F32) -> F32:
        """float32 (n, prototypes): squared distances."""
        squared: F32 = np.einsum("ij,ij->i", whitened, whitened)[:, None] + np.einsum(
            "ij,ij->i", self._prototypes, self._prototypes
        )
        squared -= np.float32(2.0) * (whitened @ self._prototypes.T)
        return squared

    def _columns(self, features: Features) -> F32:
        if not len(self._prototypes):
            raise RuntimeError(f"the {self.name} detector is not fitted")
        return self._statistics.transform(features)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The statistics' scale, whitening, prototypes and training range."""
        if not len(self._prototypes):
            raise RuntimeError(f"the {self.name} detector is not fitted")
        statistics, arrays = self._statistics.state()
        whitening, axes = self._whitening.state()
        kept = {f"statistics/{key}": value for key, value in arrays.items()}
        kept |= {f"whitening/{key}": value for key, value in axes.items()}
        kept |= {f"own/{key}": value for key, value in self._entity_whitening.state().items()}
        kept |= {f"seen/{key}": value for key, value in self._training_range.state().items()}
        return {"statistics": statistics, "whitening": whitening}, kept | {"kinds": self._prototypes}

    def restore(self, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """The inverse of ``state``."""
        self._statistics.restore(settings["statistics"], arrays_under(arrays, "statistics"))
        self._whitening.restore(settings["whitening"], arrays_under(arrays, "whitening"))
        self._entity_whitening.restore(arrays_under(arrays, "own"))
        self._training_range.restore(arrays_under(arrays, "seen"))
        self._prototypes = arrays["kinds"]
