"""Window statistics as the input of a detector: one vector per window in place of ``window × dims`` raw values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.extmath import randomized_svd

from service.detectors.features.kernels import CLIP
from service.detectors.features.windows import Features
from service.domain import F32, F64
from service.errors import NotEnoughData

EXACT_WIDTH = 512  # columns
MOST_DECOMPOSED_ROWS = 4000
# Added to a range before its logarithm, in scaled units: a smaller range counts as none.
STILL = 0.05


class WindowStatistics:
    """The newest row with means and ranges over several spans, standardised on training windows.

    For spans 5, 30 and 150 this is ``Q = [x, mean 5/30/150, range 5/30/150]``: k = 7 blocks of ``dims`` columns (spans
    longer than the window are cut to it, and equal ones merged). Each column is centred and divided by its standard deviation over
    the training windows, which is at least ``floor`` (in scaled units): a statistic that hardly moved in training must
    not outweigh all others. Clipped at ±10.
    """

    def __init__(
        self, spans: Sequence[int] = (5, 30, 150), *, floor: float = 0.3, deviations: bool = False, still: int = 0
    ) -> None:
        """``spans``: numbers of newest rows; ``floor``: see the class; ``deviations``: standard deviations over the spans too,
        after the ranges; ``still``: where not 0, the logarithm of the range over this many rows comes last. A frozen metric has a
        range of zero, which is near a normal range; the logarithm is as far from normal as that of a tenfold range.
        """
        self.spans = tuple(spans)
        self.deviations = deviations
        self.still = still
        self.floor = floor
        self._centre = np.zeros(0, np.float32)
        self._inverse = np.zeros(0, np.float32)

    def raw(self, features: Features) -> F32:
        """float32 (n, k · dims), before standardising; block b holds columns ``b · dims`` to ``(b + 1) · dims``."""
        spans = tuple(dict.fromkeys(min(span, features.window) for span in self.spans))
        blocks = [features.last, *(features.mean(span) for span in spans), *(features.range(span) for span in spans)]
        if self.deviations:
            blocks += [features.std(span) for span in spans]
        if self.still:
            blocks.append(log_range(features, self.still))
        return np.concatenate(blocks, axis=1)

    def fit(self, features: Features) -> Self:
        """Learn centre and scale of every column from the windows of training."""
        raw = self.raw(features)
        self._centre = raw.mean(axis=0, dtype=np.float64).astype(np.float32)
        self._inverse = (1.0 / np.maximum(raw.std(axis=0, dtype=np.float64), self.floor)).astype(np.float32)
        return self

    @property
    def width(self) -> int:
        """k · dims; 0 before ``fit``."""
        return len(self._centre)

    def transform(self, features: Features) -> F32:
        """float32 (n, k · dims), standardised and clipped. Raises ``RuntimeError`` when not fitted on this many columns."""
        raw = self.raw(features)
        if raw.shape[1] != self.width:
            raise RuntimeError(f"fitted on {self.width} statistics and asked for {raw.shape[1]}; was fit called?")
        raw -= self._centre
        raw *= self._inverse
        return np.clip(raw, -CLIP, CLIP, out=raw)

    def per_metric(self, columns: NDArray[Any], dims: int) -> F64:
        """Contributions of columns (n, k · dims), summed by metric: float64 (n, dims)."""
        folded: F64 = columns.reshape(len(columns), -1, dims).sum(axis=1, dtype=np.float64)
        return folded

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """JSON-safe settings and plain arrays."""
        settings = {"spans": list(self.spans), "floor": self.floor, "deviations": self.deviations, "still": self.still}
        return settings, {"centre": self._centre, "inverse": self._inverse}

    def restore(self, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of ``state``."""
        self.spans, self.floor = tuple(settings["spans"]), float(settings["floor"])
        self.deviations, self.still = bool(settings["deviations"]), int(settings["still"])
        self._centre, self._inverse = arrays["centre"], arrays["inverse"]
        return self


def log_range(features: Features, span: int) -> F32:
    """float32 (n, dims): the logarithm of the range over the newest ``span`` rows; very low for a metric that stands still."""
    logarithm: F32 = np.log(features.range(span) + np.float32(STILL))
    return logarithm


def require_windows(features: Features, least: int, name: str) -> None:
    """Raise ``NotEnoughData`` when the detector ``name`` has fewer than ``least`` windows to learn from."""
    if len(features) < least:
        raise NotEnoughData(
            f"The {name} detector needs at least {least} training windows and got {len(features)}.",
            hint="Train on more rows, or choose a shorter window.",
        )


def evenly_spaced(points: F32, most: int) -> F32:
    """At most ``most`` of the points, which are rows (n, width), evenly spaced."""
    if len(points) <= most:
        return points
    return points[np.linspace(0, len(points) - 1, most).astype(np.int64)]


def principal_axes(columns: F32, most: int, seed: int = 0) -> tuple[F32, F32, F64]:
    """Principal components: centre (width,), the ``most`` widest axes (width, k) and their variances (k,), widest first.

    Above ``EXACT_WIDTH`` columns the axes come from a randomised decomposition (Halko, Martinsson & Tropp 2011) of evenly
    spaced rows: the exact one grows with the cube of the width.
    """
    centre = columns.mean(axis=0, dtype=np.float64)
    most = min(most, *columns.shape)
    if columns.shape[1] > EXACT_WIDTH:
        chosen = evenly_spaced(columns, MOST_DECOMPOSED_ROWS) - centre.astype(np.float32)
        _, singular, rows = randomized_svd(chosen, most, random_state=seed)
        axes, variances = rows.T, np.square(singular.astype(np.float64)) / len(chosen)
    else:
        centred = columns - centre
        variances, axes = np.linalg.eigh(centred.T @ centred / len(columns))
        axes, variances = axes[:, ::-1][:, :most], np.maximum(variances[::-1][:most], 0.0)
    return centre.astype(np.float32), np.ascontiguousarray(axes, np.float32), variances


def arrays_under(arrays: Mapping[str, NDArray[Any]], name: str) -> dict[str, NDArray[Any]]:
    """The arrays whose names begin with ``name/``, without that prefix."""
    return {key.removeprefix(f"{name}/"): value for key, value in arrays.items() if key.startswith(f"{name}/")}
