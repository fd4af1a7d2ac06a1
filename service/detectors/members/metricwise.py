"""One metric at a time: what each metric does that neither its own past nor its company explains, in its own units.

A distance over a few hundred statistics hardly moves when one metric of forty stands still: a freeze is a few columns among
many, each within its range. The explainer's parts (``explain.py``) look at one metric against all others, and on log ranges,
which fall without bound when a metric freezes. Every metric's part is divided by what its newest normal windows reach once
in a hundred, so that metrics which are always restless do not drown the others; the score is the root mean square.
On planted faults in held-out normal data it finds broken correlations, and some offsets, that the whole-vector distance does
not (decision 0004).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.detectors.decision.calibration import LEAST_SCORES
from service.detectors.features.attribution import Attribution
from service.detectors.features.statistics import group, least
from service.detectors.features.windows import Features, split_tail
from service.domain import F32, F64
from service.progress import Progress, silent

LEAST_WINDOWS = 64
CHUNK = 4096  # windows at a time: bounds memory
USUAL = 0.99
# A metric that never leaves its company in training gets this share of the mean scale at least.
SCALE_FLOOR = 0.02


class MetricwiseDetector:
    """Root mean square over the metrics of what letting each one free takes off the window's distance."""

    default_name = "metricwise"

    def __init__(self, *, name: str | None = None, held_out_share: float = 0.2) -> None:
        self.name = name or self.default_name
        self.held_out_share = held_out_share
        self._explainer = Attribution()
        self._inverse = np.zeros(0, np.float32)  # (dims,): one over each metric's usual part

    def fit(self, features: Features, *, progress: Progress = silent) -> None:
        """Learn the company each metric keeps from the older windows, its usual part from the newest. Raises ``NotEnoughData``."""
        least(features, LEAST_WINDOWS, self.name)
        learn, check = split_tail(features, self.held_out_share)
        if len(check) < LEAST_SCORES:
            check = learn
        self._explainer.fit(features.take(learn))
        progress(self.name, 1, 2, "learned the metrics' company")
        usual = np.quantile(self._parts(features.take(check)), USUAL, axis=0)
        self._inverse = (1.0 / (usual + SCALE_FLOOR * usual.mean() + 1e-9)).astype(np.float32)
        progress(self.name, 2, 2, "fitted")

    def score(self, features: Features) -> F64:
        """Float64 (n,): 1 where every metric is as strange as it gets once in a hundred normal windows."""
        scores: F64 = np.sqrt(self.attribute(features).mean(axis=1))
        return scores

    def attribute(self, features: Features) -> F64:
        """Float64 (n, dims): each metric's part in units of its usual one; the score is the root of their mean."""
        if not len(self._inverse):
            raise RuntimeError(f"the {self.name} detector is not fitted")
        return (self._parts(features) * self._inverse).astype(np.float64)

    def _parts(self, features: Features) -> F32:
        if len(features) <= CHUNK:
            return self._explainer.parts(features)  # with the statistics that other members asked for
        starts = range(0, len(features), CHUNK)
        return np.concatenate([self._explainer.parts(features.take(slice(at, at + CHUNK))) for at in starts])

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The metrics' company, and their usual parts."""
        if not len(self._inverse):
            raise RuntimeError(f"the {self.name} detector is not fitted")
        told, arrays = self._explainer.state()
        return {"explainer": told}, {f"explainer/{key}": value for key, value in arrays.items()} | {"inverse": self._inverse}

    def restore(self, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """The inverse of ``state``."""
        self._explainer.restore(settings["explainer"], group(arrays, "explainer"))
        self._inverse = arrays["inverse"]
