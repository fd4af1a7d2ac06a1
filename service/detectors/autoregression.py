"""How far each metric's newest rows lie from what its own past foretold: the rhythm, which window statistics do not see.

Every metric has a linear forecast of its next value from its last few (an autoregression, fitted by ridge regression). A mean
and a range say where a metric has been; the error of its forecast says whether it moves the way it used to. The two miss
different faults: beside the whitened distances this member adds more than any other that was tried, also on series that
nobody tuned on (decision 0004), although alone it is among the weaker ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.detectors.base import Progress, silent
from service.detectors.features import Features
from service.detectors.statistics import least
from service.domain import F32, F64

LEAST_WINDOWS = 64


class AutoregressionDetector:
    """Mean absolute one-step forecast error over the newest ``smooth`` rows, each metric's in units of its own training error.

    A single error counts for 10 units at most: one jump must not drown fifty rows of every metric.
    """

    default_name = "autoregression"

    def __init__(
        self, *, name: str | None = None, lags: int = 5, smooth: int = 50, ridge: float = 10.0, floor: float = 0.05
    ) -> None:
        """``lags``: rows of a metric's own past; ``floor``: the least unit of an error, in the scaler's units."""
        self.name = name or self.default_name
        self.lags = lags
        self.smooth = smooth
        self.ridge = ridge
        self.floor = floor
        self._weights = np.zeros((0, 0), np.float32)  # (lags + 1, dims): newest lag first, the constant last
        self._inverse = np.zeros(0, np.float32)  # (dims,): one over each metric's training error

    def fit(self, features: Features, *, progress: Progress = silent) -> None:
        """Learn each metric's forecast of itself. Raises ``NotEnoughData`` under 64 windows."""
        least(features, LEAST_WINDOWS, self.name)
        self.lags = min(self.lags, features.window - 1)
        now, *past = (features.earlier(back).last.astype(np.float64) for back in range(1 + self.lags))
        given = np.stack([*past, np.ones_like(now)])  # (lags + 1, n, dims)
        gram = np.einsum("knj,lnj->jkl", given, given, optimize=True) + self.ridge * np.eye(len(given))
        weights = np.linalg.solve(gram, np.einsum("knj,nj->jk", given, now)[..., None])[..., 0].T
        error = np.sqrt(np.mean(np.square(now - np.einsum("knj,kj->nj", given, weights)), axis=0))
        self._weights = np.ascontiguousarray(weights, np.float32)
        self._inverse = (1.0 / np.maximum(error, self.floor)).astype(np.float32)
        progress(self.name, 1, 1, "fitted")

    def score(self, features: Features) -> F64:
        """Float64 (n,): the mean over the metrics; about 0.8 on data like the training windows."""
        scores: F64 = self._errors(features).mean(axis=1, dtype=np.float64)
        return scores

    def attribute(self, features: Features) -> F64:
        """Float64 (n, dims): each metric's mean error, squared."""
        return np.square(self._errors(features).astype(np.float64))

    def _errors(self, features: Features) -> F32:
        """float32 (n, dims)."""
        if not len(self._inverse):
            raise RuntimeError(f"the {self.name} detector is not fitted")
        fitted = len(self._inverse)
        if not fitted == self._weights.shape[1] == features.dims:  # the kernel would read beyond its arrays
            raise RuntimeError(f"the {self.name} detector was fitted on {fitted} metrics and is asked for {features.dims}")
        return features.forecast_errors(self._weights, self._inverse, min(self.smooth, features.window - self.lags))

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Smoothing, forecasts and units."""
        if not len(self._inverse):
            raise RuntimeError(f"the {self.name} detector is not fitted")
        return {"smooth": self.smooth}, {"weights": self._weights, "inverse": self._inverse}

    def restore(self, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """The inverse of ``state``."""
        self.smooth = int(settings["smooth"])
        self._weights, self._inverse = arrays["weights"], arrays["inverse"]
        self.lags = len(self._weights) - 1
