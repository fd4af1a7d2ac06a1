"""Whitening: rotate columns onto their principal axes and divide each by its standard deviation, so that all directions count
alike.

The covariance is shrunk (Ledoit & Wolf 2004), and a tenth of the mean variance is added to each axis (the ridge): otherwise axes in
which training never moved would dominate. With few independent windows for many columns, axes that look narrow will be wider in the
next data, so the ridge is higher (decision 0004).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from sklearn.covariance import ledoit_wolf_shrinkage

from service.domain import F32, F64

# The ridge doubles where there are four moving columns to each independent window.
SCARCE = 0.25
STILL = 1e-6  # a column with less variance counts as not moving


def widest(covariance: F64, count: int) -> tuple[F64, F64]:
    """The ``count`` largest eigenvalues of ``covariance`` (width, width), smallest first, and their axes (width, count).

    LAPACK's driver for a few of them ends in an "Internal Error" on some matrices with many equal eigenvalues (metrics that stand
    still make them); then all are computed, which is slower and does not fail.
    """
    width = len(covariance)
    try:
        values, axes = eigh(covariance, subset_by_index=(width - count, width - 1))
    except np.linalg.LinAlgError:
        values, axes = eigh(covariance, driver="evd")
    return values[-count:], axes[:, -count:]


class Whitening:
    """A fitted whitening: ``axes`` float32 (columns, k), orthonormal; ``inverse`` (k,), one over each axis' standard deviation.

    With more than ``most_axes`` columns the narrowest axes are left out; ``rest`` is then one over the standard deviation
    that they share. It is 0 when the axes are complete.
    """

    def __init__(self, *, ridge: float = 0.1, most_axes: int = 640) -> None:
        """``ridge``: added to every axis' variance, as a share of the mean variance; ``most_axes``: how many axes are kept."""
        self.ridge = ridge
        self.most_axes = most_axes
        self.centre: F32 = np.zeros(0, np.float32)
        self.axes: F32 = np.zeros((0, 0), np.float32)
        self.inverse: F32 = np.zeros(0, np.float32)
        self.rest = 0.0
        self._symmetric: F32 = np.zeros((0, 0), np.float32)  # computed when first needed

    def fit(self, columns: F32, independent: float) -> Self:
        """Learn from training rows (n, columns) that count for so many ``independent`` windows (``Features.independent``)."""
        exact: F64 = columns.astype(np.float64)
        centre: F64 = exact.mean(axis=0)
        exact -= centre
        width = exact.shape[1]
        moving = np.count_nonzero(np.square(exact).mean(axis=0) > STILL)
        covariance = exact.T @ exact / len(exact)
        shrinkage = ledoit_wolf_shrinkage(exact, assume_centered=True)
        level = np.trace(covariance) / width
        covariance *= 1.0 - shrinkage
        covariance.flat[:: width + 1] += shrinkage * level
        kept = min(self.most_axes, width)
        values, axes = widest(covariance, kept)
        ridge = self.ridge * (1.0 + SCARCE * moving / independent) * level + 1e-12
        self.rest = 0.0
        if kept < width:
            left = max(level * width - values.sum(), 0.0) / (width - kept)
            self.rest = float(1.0 / np.sqrt(left + ridge))
        self.centre = centre.astype(np.float32)
        self.axes = np.ascontiguousarray(axes, np.float32)
        self.inverse = (1.0 / np.sqrt(np.maximum(values, 0.0) + ridge)).astype(np.float32)
        self._symmetric = np.zeros((0, 0), np.float32)
        return self

    def transform(self, columns: F32) -> F32:
        """float32 (n, k): whitened."""
        along = np.asarray((columns - self.centre) @ self.axes, dtype=np.float32)
        along *= self.inverse
        return along

    def rotate_back(self, whitened: F32) -> F32:
        """float32 (n, columns): whitened coordinates (n, k) rotated back to the columns, without their scale, so that a row's
        squares keep their sum.

        This is the symmetric ("ZCA") whitening, which splits a squared Mahalanobis distance fairly
        among the columns (Garthwaite & Koch 2016).
        """
        return whitened @ self.axes.T

    def transform_symmetric(self, columns: F32) -> F32:
        """float32 (n, columns): ``rotate_back(transform(columns))``, as one matrix product where that is cheaper."""
        width, kept = self.axes.shape
        if 2 * kept <= width:
            return self.rotate_back(self.transform(columns))
        if not self._symmetric.size:
            self._symmetric = np.asarray((self.axes * self.inverse) @ self.axes.T, dtype=np.float32)
        return np.asarray((columns - self.centre) @ self._symmetric, dtype=np.float32)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """JSON-safe settings and plain arrays."""
        return {"rest": self.rest}, {"centre": self.centre, "axes": self.axes, "inverse": self.inverse}

    def restore(self, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of ``state``."""
        self.rest = float(settings["rest"])
        self.centre, self.axes, self.inverse = arrays["centre"], arrays["axes"], arrays["inverse"]
        self._symmetric = np.zeros((0, 0), np.float32)
        return self
