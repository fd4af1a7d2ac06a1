"""What detectors read of windows. Training and serving use the same code: this file and ``scaler.py``.

``Features`` computes window statistics once per batch and shares them between members. The rows are not copied: a
window is the ``window`` rows that end before ``ends[i]``, so 20,000 overlapping windows cost no more than their series.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from service.detectors.features.kernels import deviations, forecast_errors, scaled, summaries
from service.domain import F32, I64, Mask


class Scales(NamedTuple):
    """``centre`` and ``inverse`` (one over the scale; 0 for metrics that are left out): each float32 (tables, dims)."""

    centre: F32
    inverse: F32


class Features:
    """Scaled windows and their statistics, in float32.

    ``rows``: float32 (N, dims), raw, NaN before the first observed value; ``ends``: int64 (n,), window i is
    ``rows[ends[i] - window : ends[i]]``; ``scales``: centre and inverse scale, each (tables, dims); ``which``: int64 (n,), the
    table of each window; ``seen``: bool (N, dims) or None where every value was observed; ``begins``: int64, the rows
    at which a new series begins (training only).

    Every statistic is over the newest ``span`` rows (at most the window), float32 (n, dims), contiguous; callers must not change
    it. A window's statistics are the same to the bit in any batch: each window is computed by itself.
    """

    def __init__(
        self,
        rows: F32,
        ends: I64,
        window: int,
        *,
        scales: Scales | None = None,
        which: I64 | None = None,
        seen: Mask | None = None,
        begins: I64 | None = None,
    ) -> None:
        dims = rows.shape[1]
        self.rows = np.ascontiguousarray(rows, dtype=np.float32)
        self.ends = np.ascontiguousarray(ends, dtype=np.int64)
        self.window = int(window)
        self.seen = seen
        self._begins = np.zeros(1, np.int64) if begins is None else begins
        self._scales = scales or Scales(np.zeros((1, dims), np.float32), np.ones((1, dims), np.float32))
        self._which = np.zeros(len(ends), np.int64) if which is None else which
        self._kept: dict[tuple[str, int], F32] = {}
        self._lock = threading.RLock()  # detectors ask from several threads; each statistic is computed once

    @classmethod
    def of(cls, values: F32, mask: Mask | None = None) -> Self:
        """Features of windows that are scaled already: values float32 and mask bool, both (n, window, dims)."""
        n, window, dims = values.shape
        seen = None if mask is None or mask.all() else np.ascontiguousarray(mask).reshape(n * window, dims)
        ends = np.arange(1, n + 1, dtype=np.int64) * window
        return cls(np.ascontiguousarray(values, np.float32).reshape(n * window, dims), ends, window, seen=seen)

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def dims(self) -> int:
        """How many metrics a row has."""
        return int(self.rows.shape[1])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(n, window, dims)."""
        return len(self), self.window, self.dims

    def take(self, chosen: NDArray[Any] | slice) -> Features:
        """The chosen windows, over the same rows; only their ends are copied."""
        which = self._which[chosen]
        return Features(
            self.rows, self.ends[chosen], self.window, scales=self._scales, which=which, seen=self.seen, begins=self._begins
        )

    @property
    def series(self) -> I64:
        """int64 (n,): the number of the series each window was cut from; windows of one series are adjacent, in row order."""
        return np.searchsorted(self._begins, self.ends - 1, side="right") - 1

    @property
    def independent(self) -> float:
        """How many independent windows these count for: the rows they cover, divided by the window. Overlaps add no evidence."""
        first = np.flatnonzero(np.diff(self.series, prepend=-1))
        last = np.append(first[1:], len(self)) - 1
        return float(np.sum(self.ends[last] - self.ends[first] + self.window)) / self.window

    @property
    def owner(self) -> I64:
        """int64 (n,): the number of the entity of each window, in a bundle of several entities; 0: it has no scale of its own."""
        return self._which

    @property
    def inverse(self) -> F32:
        """float32 (tables, dims): one over the scale of every metric, by ``owner``; 0 for those that are left out."""
        return self._scales.inverse

    def earlier(self, rows: int) -> Features:
        """The same windows without their newest ``rows`` rows (``rows`` < window): what was known ``rows`` rows earlier."""
        return Features(
            self.rows,
            self.ends - rows,
            self.window - rows,
            scales=self._scales,
            which=self._which,
            seen=self.seen,
            begins=self._begins,
        )

    @property
    def values(self) -> F32:
        """The scaled windows, float32 (n, window, dims); computed when first asked for (statistics do not need them)."""
        return self._once("values", 0, self._values)

    @property
    def mask(self) -> Mask:
        """bool (n, window, dims), True where observed."""
        if self.seen is None:
            return np.broadcast_to(np.True_, self.shape)
        mask: Mask = self.seen[self.ends[:, None] + np.arange(-self.window, 0)]
        return mask

    @property
    def last(self) -> F32:
        """The newest row, float32 (n, dims)."""
        return self.mean(1)

    def mean(self, span: int) -> F32:
        """Mean over the newest ``span`` rows."""
        return self._summary("mean", span)

    def range(self, span: int) -> F32:
        """Largest minus smallest over the newest ``span`` rows."""
        return self._summary("range", span)

    def std(self, span: int) -> F32:
        """Standard deviation (population) over the newest ``span`` rows."""
        span = min(span, self.window)
        mean = self.mean(span)

        def compute() -> F32:
            out = np.empty_like(mean)
            deviations(self.rows, self.ends, self._which, *self._scales, span, mean, out)
            return out

        return self._once("std", span, compute)

    def forecast_errors(self, weights: F32, units: F32, smooth: int) -> F32:
        """Mean absolute error, float32 (n, dims), of forecasting each of the newest ``smooth`` rows of a metric from its own rows
        before it.

        ``weights`` (lags + 1, dims): newest lag first and the constant last; ``units`` (dims,) multiply an error, which then counts
        for 10 at most. ``smooth`` + lags must not exceed the window.
        """
        out = np.empty((len(self), self.dims), np.float32)
        forecast_errors(self.rows, self.ends, self._which, *self._scales, weights, units, smooth, out)
        return out

    def _summary(self, kind: str, span: int) -> F32:
        span = min(span, self.window)
        with self._lock:
            if (kind, span) not in self._kept:
                mean, spread = np.empty((2, len(self), self.dims), np.float32)
                summaries(self.rows, self.ends, self._which, *self._scales, span, mean, spread)
                self._kept["mean", span], self._kept["range", span] = mean, spread
            return self._kept[kind, span]

    def _once(self, kind: str, span: int, compute: Callable[[], F32]) -> F32:
        with self._lock:
            if (kind, span) not in self._kept:
                self._kept[kind, span] = compute()
            return self._kept[kind, span]

    def _values(self) -> F32:
        out = np.empty(self.shape, np.float32)
        scaled(self.rows, self.ends, self._which, *self._scales, out)
        return out


def split_tail(features: Features, share: float) -> tuple[I64, I64]:
    """Indices of the windows to learn from, and of the newest ``share`` of each series to check on, with no row in both.

    A series too short for both parts is learned from whole, so the second part may be empty.
    """
    learn, check = [], []
    series = features.series
    for number in np.unique(series):
        own = np.flatnonzero(series == number)
        tail = own[len(own) - int(len(own) * share) :]
        head = own[features.ends[own] <= features.ends[tail[0]] - features.window] if len(tail) else own
        learn.append(head if len(head) else own)
        check.append(tail if len(head) else own[:0])
    return np.concatenate(learn), np.concatenate(check)


def carry_forward(values: F32) -> tuple[F32, Mask]:
    """Fill missing values as the stream does, for a whole series: with the last observed value; NaN before the first.

    ``values`` float32 (n, dims), NaN where missing. Returns the filled copy and the mask (True where observed).
    """
    mask = np.isfinite(values)
    if mask.all():
        return values, mask
    at = np.where(mask, np.arange(len(values))[:, None], 0)
    np.maximum.accumulate(at, axis=0, out=at)
    filled = np.take_along_axis(np.where(mask, values, np.float32(np.nan)), at, axis=0)
    return filled, mask
