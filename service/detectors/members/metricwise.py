"""One metric at a time: how far each metric departs from its own past and from the metrics it is correlated with.

A distance over a few hundred statistics hardly changes when one metric of forty stands still: a freeze is a few columns among
many, each within its range. The parts of ``features/attribution.py`` compare one metric with all others, and by log ranges,
which fall without bound when a metric freezes. Every metric's part is divided by what it reaches once in a hundred normal windows
held out from training, so that metrics which always vary much do not dominate; the score is the root mean square.
On planted faults in held-out normal data it finds broken correlations, and some offsets, that the distance over all metrics misses
(decision 0004).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.detectors.decision.calibration import LEAST_SCORES
from service.detectors.features.attribution import Attribution
from service.detectors.features.statistics import arrays_under, require_windows
from service.detectors.features.windows import Features, split_tail
from service.domain import F32, F64
from service.progress import Progress, silent

LEAST_WINDOWS = 64
CHUNK = 4096  # windows at a time: bounds memory
USUAL_QUANTILE = 0.99
# Added to every metric's usual part, as a share of the mean: some metrics are explained by the others perfectly in training.
SCALE_FLOOR = 0.02


class MetricwiseDetector:
    """Root mean square over the metrics of their parts of the window's squared distance, each in units of its usual part.

    Options: ``held_out_share``: the newest share of each training series, from which the usual size of each part is learned.

    Example: ``training: {detectors: {metricwise: 1.0}}``
    """

    default_name = "metricwise"

    def __init__(self, *, name: str | None = None, held_out_share: float = 0.2) -> None:
        self.name = name or self.default_name
        self.held_out_share = held_out_share
        self._attribution = Attribution()
        self._inverse = np.zeros(0, np.float32)  # (dims,): one over each metric's usual part of the squared distance

    def fit(self, features: Features, *, progress: Progress = silent) -> None:
        """Learn the covariance from the older windows, the usual parts from the newest. Raises ``NotEnoughData`` under 64
        windows.
        """
        require_windows(features, LEAST_WINDOWS, self.name)
        learn, check = split_tail(features, self.held_out_share)
        if len(check) < LEAST_SCORES:
            check = learn
        self._attribution.fit(features.take(learn))
        progress(self.name, 1, 2, "learned the covariance")
        usual = np.quantile(self._parts(features.take(check)), USUAL_QUANTILE, axis=0)
        self._inverse = (1.0 / (usual + SCALE_FLOOR * usual.mean() + 1e-9)).astype(np.float32)
        progress(self.name, 2, 2, "fitted")

    def score(self, features: Features) -> F64:
        """Float64 (n,): 1 where every metric's part is as large as it is in one normal window of a hundred."""
        scores: F64 = np.sqrt(self.attribute(features).mean(axis=1))
        return scores

    def attribute(self, features: Features) -> F64:
        """Float64 (n, dims): each metric's part in units of its usual one; the score is the root of their mean."""
        if not len(self._inverse):
            raise RuntimeError(f"the {self.name} detector is not fitted")
        return (self._parts(features) * self._inverse).astype(np.float64)

    def _parts(self, features: Features) -> F32:
        if len(features) <= CHUNK:
            return self._attribution.parts(features)  # the whole batch shares its statistics with the other detectors
        starts = range(0, len(features), CHUNK)
        return np.concatenate([self._attribution.parts(features.take(slice(at, at + CHUNK))) for at in starts])

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The metrics' covariance, and their usual parts."""
        if not len(self._inverse):
            raise RuntimeError(f"the {self.name} detector is not fitted")
        settings, arrays = self._attribution.state()
        return {"explainer": settings}, {f"explainer/{key}": value for key, value in arrays.items()} | {"inverse": self._inverse}

    def restore(self, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """The inverse of ``state``."""
        self._attribution.restore(settings["explainer"], arrays_under(arrays, "explainer"))
        self._inverse = arrays["inverse"]
