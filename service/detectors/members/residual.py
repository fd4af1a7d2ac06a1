"""Two linear models of what is normal, whose residual is the score: principal components and a ridge vector autoregression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.detectors.features.statistics import WindowStatistics, arrays_under, require_windows
from service.detectors.features.windows import Features
from service.domain import F32, F64
from service.progress import Progress, silent

LEAST_WINDOWS = 64
CHUNK = 2048  # windows whose newest rows are held at once


class PcaResidualDetector:
    """What the principal axes of the window statistics leave unexplained (Jackson & Mudholkar 1979): a linear autoencoder.

    The axes that hold ``explained`` of the training variance are projected out; the score is the mean absolute residual.

    Options: ``spans``: numbers of newest rows over which means and ranges are taken; ``explained``: the share of the variance in
    [0, 1] that is projected out; ``most_axes``: principal axes kept, at most.

    Example: ``training: {detectors: {pca_residual: {weight: 1.0, explained: 0.95}}}``
    """

    default_name = "pca_residual"

    def __init__(
        self, *, name: str | None = None, spans: Sequence[int] = (5, 25, 100), explained: float = 0.9, most_axes: int = 256
    ) -> None:
        self.name = name or self.default_name
        self.explained = explained
        self.most_axes = most_axes
        self._statistics = WindowStatistics(spans)
        self._centre = np.zeros(0, np.float32)
        self._axes = np.zeros((0, 0), np.float32)

    def fit(self, features: Features, *, progress: Progress = silent) -> None:
        """Learn the axes. Raises ``NotEnoughData`` under 64 windows."""
        require_windows(features, LEAST_WINDOWS, self.name)
        columns = self._statistics.fit(features).transform(features)
        centre = columns.mean(axis=0, dtype=np.float64)
        covariance = np.cov(columns.T.astype(np.float64), bias=True).reshape(len(centre), len(centre))
        values, axes = np.linalg.eigh(covariance)
        values, axes = np.maximum(values[::-1], 0.0), axes[:, ::-1]
        # At least one axis stays out, or there would be no residual at all.
        explained = np.cumsum(values) / max(float(values.sum()), 1e-12)
        kept = min(int(np.searchsorted(explained, self.explained)) + 1, len(values) - 1, self.most_axes)
        self._centre = centre.astype(np.float32)
        self._axes = np.ascontiguousarray(axes[:, :kept], np.float32)
        progress(self.name, 1, 1, f"{kept} axes")

    def score(self, features: Features) -> F64:
        """Float64 (n,): mean absolute residual, in standard deviations of the statistics."""
        scores: F64 = np.abs(self._residual(features)).mean(axis=1, dtype=np.float64)
        return scores

    def attribute(self, features: Features) -> F64:
        """Float64 (n, dims): squared residual summed over each metric's statistics."""
        return self._statistics.per_metric(np.square(self._residual(features)), features.dims)

    def _residual(self, features: Features) -> F32:
        if not len(self._centre):
            raise RuntimeError(f"the {self.name} detector is not fitted")
        columns = self._statistics.transform(features)
        columns -= self._centre
        columns -= (columns @ self._axes) @ self._axes.T
        return columns

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Statistics' scale, centre and axes."""
        if not len(self._centre):
            raise RuntimeError(f"the {self.name} detector is not fitted")
        settings, arrays = self._statistics.state()
        kept = {f"statistics/{key}": value for key, value in arrays.items()}
        return {"statistics": settings}, kept | {"centre": self._centre, "axes": self._axes}

    def restore(self, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """The inverse of ``state``."""
        self._statistics.restore(settings["statistics"], arrays_under(arrays, "statistics"))
        self._centre, self._axes = arrays["centre"], arrays["axes"]


class ForecastDetector:
    """A vector autoregression, fitted by ridge regression: how far the newest rows lie from their forecasts.

    The score is the mean absolute one-step forecast error over the newest ``smooth`` rows, each metric's error in units of its own
    training error.

    Options: ``lags``: from how many rows before it a row is forecast; ``ridge``: the penalty of the regression, in squared scaled
    units summed over the training windows; ``smooth``: rows over which errors are averaged; ``floor``: the least unit of an
    error, in scaled units.

    Example: ``training: {detectors: {forecast: {weight: 1.0, lags: 5, smooth: 50}}}``
    """

    default_name = "forecast"

    def __init__(
        self, *, name: str | None = None, lags: int = 5, ridge: float = 10.0, smooth: int = 50, floor: float = 0.05
    ) -> None:
        self.name = name or self.default_name
        self.lags = lags
        self.ridge = ridge
        self.smooth = smooth
        self.floor = floor
        self._weights = np.zeros((0, 0), np.float32)  # (lags · dims + 1, dims)
        self._inverse = np.zeros(0, np.float32)

    def fit(self, features: Features, *, progress: Progress = silent) -> None:
        """Learn the forecast of each metric from all metrics. Raises ``NotEnoughData`` under 64 windows."""
        require_windows(features, LEAST_WINDOWS, self.name)
        self.lags = min(self.lags, features.window - 1)
        now, *past = self._newest(features, 1 + self.lags)
        given = np.concatenate([*past, np.ones((len(now), 1), np.float32)], axis=1)
        gram = given.T.astype(np.float64) @ given + self.ridge * np.eye(given.shape[1])
        self._weights = np.linalg.solve(gram, given.T.astype(np.float64) @ now).astype(np.float32)
        error = np.sqrt(np.mean(np.square(now - given @ self._weights), axis=0, dtype=np.float64))
        self._inverse = (1.0 / np.maximum(error, self.floor)).astype(np.float32)
        progress(self.name, 1, 1, "fitted")

    def score(self, features: Features) -> F64:
        """Float64 (n,): mean absolute standardised forecast error."""
        scores: F64 = self._errors(features).mean(axis=1, dtype=np.float64)
        return scores

    def attribute(self, features: Features) -> F64:
        """Float64 (n, dims): each metric's mean absolute standardised forecast error, squared."""
        return np.square(self._errors(features).astype(np.float64))

    def _errors(self, features: Features) -> F32:
        if not len(self._inverse):
            raise RuntimeError(f"the {self.name} detector is not fitted")
        smoothed = min(self.smooth, features.window - self.lags)
        errors = np.zeros((len(features), features.dims), np.float32)
        for start in range(0, len(features), CHUNK):
            chosen = slice(start, start + CHUNK)
            newest = self._newest(features.take(chosen), smoothed + self.lags)
            for at in range(smoothed):
                given = np.concatenate(newest[at + 1 : at + 1 + self.lags], axis=1)
                errors[chosen] += np.abs(newest[at] - given @ self._weights[:-1] - self._weights[-1])
        errors *= self._inverse / np.float32(smoothed)
        return errors

    def _newest(self, features: Features, count: int) -> list[F32]:
        """The ``count`` newest rows of each window, newest first, each float32 (n, dims)."""
        return [features.earlier(back).last for back in range(count)]

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Lags, smoothing, weights and error scale."""
        if not len(self._inverse):
            raise RuntimeError(f"the {self.name} detector is not fitted")
        return {"lags": self.lags, "smooth": self.smooth}, {"weights": self._weights, "inverse": self._inverse}

    def restore(self, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """The inverse of ``state``."""
        self.lags, self.smooth = int(settings["lags"]), int(settings["smooth"])
        self._weights, self._inverse = arrays["weights"], arrays["inverse"]
