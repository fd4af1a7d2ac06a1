"""From raw windows to ``Features``: every metric centred and scaled by what training learned.

Per entity where training had enough rows of it, pooled elsewhere; clipped at ±10, never observed = 0 (the centre). A missing value
that was observed before arrives carried forward (see ``WindowBatch``) and stays so: the centre in its place would be a jump that
never happened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from service.detectors.features.windows import Features, Scales, carry_forward
from service.domain import F32, F64, Series, WindowBatch
from service.errors import NotEnoughData

# An interquartile range is 1.349 standard deviations of a normal distribution.
IQR_IN_SIGMAS = 1.349
# With more two-valued metrics than this for each other metric, they are columns of a state code, not metrics (decision 0004).
MOST_STATES = 10


class Scaler:
    """Centre and scale of every metric, pooled and per entity.

    Centre is the median; scale the larger of interquartile range / 1.349 and the standard deviation, so that neither a
    spiky metric (no interquartile range) nor a two-level one gets huge scaled values. A column that never moved gets a tenth of its
    level, or 1 where that is zero: a change of it then counts, but does not outweigh all others.
    An entity with ``own_rows`` training rows or more has a scale of its own; any other uses the pooled one.

    ``left_out``: the columns that took two values at most in training, where there are more than ``MOST_STATES`` of them for each
    other metric, as where a state is written as one column per value. Detectors always see them at their centre: dozens of columns
    that jump together would outweigh the few that measure something.
    """

    def __init__(self, own_rows: int = 500) -> None:
        self.own_rows = own_rows
        self.entities: dict[str, int] = {}
        self.left_out: tuple[int, ...] = ()
        self._centre = np.zeros((0, 0), np.float32)
        self._scale = np.zeros((0, 0), np.float32)
        self._inverse = self._scale

    def fit(self, series: Sequence[Series]) -> Self:
        """Learn from normal rows. Raises ``NotEnoughData`` when there is not a single one."""
        if not any(len(one.values) for one in series):
            raise NotEnoughData("There are no rows to learn the scale of the metrics from.", hint="Give a few hundred normal rows.")
        every = np.concatenate([one.values for one in series])
        pooled = _centre_scale(every)
        tables, self.entities, self.left_out = [pooled], {}, _left_out(every)
        rows_of: dict[str, list[F32]] = {}
        for one in series:
            rows_of.setdefault(one.entity, []).append(one.values)
        if len(rows_of) == 1:  # the pooled scale is the entity's own
            self.entities[next(iter(rows_of))] = 0
        else:
            for entity, parts in rows_of.items():
                if sum(map(len, parts)) >= self.own_rows:
                    self.entities[entity] = len(tables)
                    tables.append(_centre_scale(np.concatenate(parts), fallback=pooled))
        self._set(np.stack([centre for centre, _ in tables]), np.stack([scale for _, scale in tables]))
        return self

    @property
    def dims(self) -> int:
        """How many metrics it was fitted on; 0 before ``fit``."""
        return int(self._centre.shape[1])

    @property
    def inverse(self) -> F32:
        """(tables, dims), one over the scale; 0 for those left out. Row 0 is the pooled one, ``entities`` names the others."""
        return self._inverse

    def centre(self, entity: str) -> F32:
        """(dims,), in the metrics' own units."""
        centre: F32 = self._centre[self.entities.get(entity, 0)]
        return centre

    def scale(self, entity: str) -> F32:
        """(dims,), one robust standard deviation in the metrics' own units."""
        scale: F32 = self._scale[self.entities.get(entity, 0)]
        return scale

    def transform(self, batch: WindowBatch) -> Features:
        """Features of a batch of windows (serving). Raises ``RuntimeError`` when not fitted on this many metrics."""
        n, window, dims = batch.values.shape
        self._check(dims)
        seen = None if batch.mask.all() else np.ascontiguousarray(batch.mask).reshape(n * window, dims)
        rows = np.ascontiguousarray(batch.values, dtype=np.float32).reshape(n * window, dims)
        which = np.fromiter((self.entities.get(entity, 0) for entity in batch.entities), np.int64, n)
        ends = np.arange(1, n + 1, dtype=np.int64) * window
        return Features(rows, ends, window, scales=Scales(self._centre, self._inverse), which=which, seen=seen)

    def windows(self, series: Sequence[Series], window: int, stride: int = 1) -> Features:
        """Features of the windows of whole series (training): one every ``stride`` rows, series after series, in row order.

        A window never spans two series; a series shorter than a window has none. Raises ``RuntimeError`` when not fitted on this
        many metrics.
        """
        self._check(series[0].values.shape[1])
        filled = [carry_forward(one.values) for one in series]
        starts = np.cumsum([0, *(len(values) for values, _ in filled)])
        ends = [np.arange(window, len(one.values) + 1, stride) + start for one, start in zip(series, starts, strict=False)]
        tables = [np.full(len(part), self.entities.get(one.entity, 0), np.int64) for part, one in zip(ends, series, strict=True)]
        seen = np.concatenate([mask for _, mask in filled])
        return Features(
            np.concatenate([values for values, _ in filled]),
            np.concatenate(ends),
            window,
            scales=Scales(self._centre, self._inverse),
            which=np.concatenate(tables),
            seen=None if seen.all() else seen,
            begins=starts[:-1].astype(np.int64),
        )

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """JSON-safe settings and plain arrays."""
        settings = {"own_rows": self.own_rows, "entities": dict(self.entities), "left_out": list(self.left_out)}
        return settings, {"centre": self._centre, "scale": self._scale}

    def restore(self, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of ``state``."""
        self.own_rows = int(settings["own_rows"])
        self.entities = {str(name): int(at) for name, at in settings["entities"].items()}
        self.left_out = tuple(int(at) for at in settings.get("left_out", ()))
        self._set(arrays["centre"], arrays["scale"])
        return self

    def _set(self, centre: NDArray[Any], scale: NDArray[Any]) -> None:
        self._centre = np.ascontiguousarray(centre, np.float32)
        self._scale = np.ascontiguousarray(scale, np.float32)
        self._inverse = np.ascontiguousarray(1.0 / self._scale, np.float32)
        self._inverse[:, list(self.left_out)] = 0.0

    def _check(self, dims: int) -> None:
        if dims != self.dims:
            raise RuntimeError(f"the scaler was fitted on {self.dims} metrics and is asked for {dims}")


def _centre_scale(values: F32, fallback: tuple[F64, F64] | None = None) -> tuple[F64, F64]:
    """Median and scale of each column, float64 (dims,); a column without values takes the fallback, or 0 and 1."""
    exact = np.where(np.isfinite(values), values, np.nan).astype(np.float64)
    empty = np.isnan(exact).all(axis=0)
    exact[:, empty] = 0.0
    low, centre, high = np.nanpercentile(exact, [25, 50, 75], axis=0)
    deviation = np.nanstd(exact, axis=0)
    scale = np.maximum((high - low) / IQR_IN_SIGMAS, deviation)
    still = scale <= 1e-6 * np.maximum(np.abs(centre), 1e-6)
    scale = np.where(still, np.where(np.abs(centre) > 1e-6, 0.1 * np.abs(centre), 1.0), scale)
    if fallback is not None:
        centre, scale = np.where(empty, fallback[0], centre), np.where(empty, fallback[1], scale)
    return centre, scale


def _left_out(values: F32) -> tuple[int, ...]:
    """The columns of two values at most, where there are too many of them; see ``Scaler``."""
    low, high = np.fmin.reduce(values, axis=0), np.fmax.reduce(values, axis=0)
    states = ((values == low) | (values == high) | ~np.isfinite(values)).all(axis=0)
    scales = int((~states).sum())
    return tuple(np.flatnonzero(states).tolist()) if 0 < MOST_STATES * scales < int(states.sum()) else ()
