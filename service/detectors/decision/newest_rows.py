"""Disjoint evidence: how unusual the newest ``stride`` rows are by themselves.

One odd row is in ``window / stride`` overlapping windows, but among the newest rows of one window only. The score is the mean
absolute whitened deviation of the last value, mean and range of those rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.detectors.features.statistics import WindowStatistics, principal_axes, require_windows
from service.detectors.features.windows import Features
from service.domain import F32, F64

MOST_DIMENSIONS = 64


class NewestRows:
    """Scores the newest rows only. It has its own calibration, with one observation for every ``stride`` calibration rows."""

    def __init__(self, stride: int = 10) -> None:
        """``stride``: how many of the newest rows are scored."""
        self._statistics = WindowStatistics((stride,))
        self._centre: F32 = np.zeros(0, np.float32)
        self._whitening: F32 = np.zeros((0, 0), np.float32)

    def fit(self, features: Features) -> NewestRows:
        """Learn centre and covariance. Raises ``NotEnoughData`` under 30 windows."""
        require_windows(features, 30, "newest-rows")
        columns = self._statistics.fit(features).transform(features)
        self._centre, axes, variances = principal_axes(columns, MOST_DIMENSIONS)
        # The ridge of ``Whitening``: without it axes in which training never moved would dominate.
        ridge = 0.1 * float(np.var(columns, axis=0, dtype=np.float64).mean()) + 1e-12
        self._whitening = np.ascontiguousarray(axes / np.sqrt(variances + ridge), np.float32)
        return self

    def score(self, features: Features) -> F64:
        """Float64 (n,): mean absolute whitened deviation."""
        columns = self._statistics.transform(features) - self._centre
        score: F64 = np.abs(columns @ self._whitening).mean(axis=1, dtype=np.float64)
        return score

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """JSON-safe settings and plain arrays."""
        settings, arrays = self._statistics.state()
        return settings, {**{f"statistics/{k}": v for k, v in arrays.items()}, "middle": self._centre, "whitening": self._whitening}

    def restore(self, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> NewestRows:
        """The inverse of ``state``."""
        self._statistics.restore(settings, {key.removeprefix("statistics/"): value for key, value in arrays.items()})
        self._centre, self._whitening = arrays["middle"], arrays["whitening"]
        return self
