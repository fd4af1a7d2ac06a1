"""Forecast errors of every metric from its own past: changes of rhythm, which window statistics do not show.

Every metric has a linear forecast of its next value from its last few (an autoregression, fitted by ridge regression). A mean
and a range say where a metric has been; the error of its forecast says whether it moves the way it used to. The two miss
different faults: added to the whitened distances this detector improves the ensemble more than any other that was tried, also on
series that were not used for tuning (decision 0004), although alone it is among the weaker ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.detectors.features.statistics import require_windows
from service.detectors.features.windows import Features
from service.detectors.members.residual import LEAST_WINDOWS, ForecastDetector
from service.domain import F32
from service.progress import Progress, silent


class AutoregressionDetector(ForecastDetector):
    """Mean absolute one-step forecast error over the newest ``smooth`` rows, each metric's in units of its own training error.

    ``ForecastDetector`` with each metric forecast from its own past only; the options are the same. A single error counts for 10
    units at most, so that one jump does not outweigh fifty rows of every metric.

    Example: ``training: {detectors: {autoregression: {weight: 1.0, lags: 5, smooth: 50}}}``
    """

    default_name = "autoregression"

    def fit(self, features: Features, *, progress: Progress = silent) -> None:
        """Learn each metric's forecast of itself. Raises ``NotEnoughData`` under 64 windows."""
        require_windows(features, LEAST_WINDOWS, self.name)
        self.lags = min(self.lags, features.window - 1)
        now, *past = (rows.astype(np.float64) for rows in self._newest(features, 1 + self.lags))
        given = np.stack([*past, np.ones_like(now)])  # (lags + 1, n, dims)
        gram = np.einsum("knj,lnj->jkl", given, given, optimize=True) + self.ridge * np.eye(len(given))
        weights = np.linalg.solve(gram, np.einsum("knj,nj->jk", given, now)[..., None])[..., 0].T
        error = np.sqrt(np.mean(np.square(now - np.einsum("knj,kj->nj", given, weights)), axis=0))
        self._weights = np.ascontiguousarray(weights, np.float32)  # (lags + 1, dims): newest lag first, the constant last
        self._inverse = (1.0 / np.maximum(error, self.floor)).astype(np.float32)
        progress(self.name, 1, 1, "fitted")

    def _errors(self, features: Features) -> F32:
        if not len(self._inverse):
            raise RuntimeError(f"the {self.name} detector is not fitted")
        fitted = len(self._inverse)
        if not fitted == self._weights.shape[1] == features.dims:  # the kernel would read beyond its arrays
            raise RuntimeError(f"the {self.name} detector was fitted on {fitted} metrics and is asked for {features.dims}")
        return features.forecast_errors(self._weights, self._inverse, min(self.smooth, features.window - self.lags))

    def restore(self, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """The inverse of ``state``."""
        super().restore(settings, arrays)
        self.lags = len(self._weights) - 1  # what the kernel goes by, whatever the settings say
