"""Window statistics as the input of a detector: one vector per window in place of ``window × dims`` raw values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from service.detectors.features import Features
from service.detectors.kernels import CLIP
from service.domain import F32, F64
from service.errors import NotEnoughData


class WindowStatistics:
    """The newest row with means and ranges over several spans, standardised on training windows.

    For spans 5, 30 and 150 this is ``Q = [x, mean 5/30/150, range 5/30/150]``: k = 7 blocks of ``dims`` columns (spans
    beyond the window are capped, and equal ones merged). Each column is centred and divided by its standard deviation over
    the training windows, which is floored at ``floor`` (in scaled units): a statistic that hardly moved in training must
    not drown the rest. Clipped at ±10.
    """

    def __init__(self, spans: Sequence[int] = (5, 30, 150), *, floor: float = 0.3) -> None:
        self.spans = tuple(spans)
        self.floor = floor
        self._centre = np.zeros(0, np.float32)
        self._inverse = np.zeros(0, np.float32)

    def raw(self, features: Features) -> F32:
        """float32 (n, k · dims), before standardising; block b holds columns ``b · dims`` to ``(b + 1) · dims``."""
        spans = tuple(dict.fromkeys(min(span, features.window) for span in self.spans))
        blocks = [features.last, *(features.mean(span) for span in spans), *(features.range(span) for span in spans)]
        return np.concatenate(blocks, axis=1)

    def fit(self, features: Features) -> Self:
        """Learn centre and scale of every column."""
        raw = self.raw(features)
        self._centre = raw.mean(axis=0, dtype=np.float64).astype(np.float32)
        self._inverse = (1.0 / np.maximum(raw.std(axis=0, dtype=np.float64), self.floor)).astype(np.float32)
        return self

    @property
    def width(self) -> int:
        """k · dims; 0 before ``fit``."""
        return len(self._centre)

    def transform(self, features: Features) -> F32:
        """float32 (n, k · dims), standardised and clipped."""
        raw = self.raw(features)
        if raw.shape[1] != self.width:
            raise RuntimeError(f"fitted on {self.width} statistics and asked for {raw.shape[1]}; was fit called?")
        raw -= self._centre
        raw *= self._inverse
        return np.clip(raw, -CLIP, CLIP, out=raw)

    def per_metric(self, columns: NDArray[Any], dims: int) -> F64:
        """Fold contributions of columns, (n, k · dims), into contributions of metrics, float64 (n, dims)."""
        folded: F64 = columns.reshape(len(columns), -1, dims).sum(axis=1, dtype=np.float64)
        return folded

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """JSON-safe settings and plain arrays."""
        return {"spans": list(self.spans), "floor": self.floor}, {"centre": self._centre, "inverse": self._inverse}

    def restore(self, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of ``state``."""
        self.spans, self.floor = tuple(settings["spans"]), float(settings["floor"])
        self._centre, self._inverse = arrays["centre"], arrays["inverse"]
        return self


def least(features: Features, windows: int, name: str) -> None:
    """Raise ``NotEnoughData`` when ``name`` would have fewer than ``windows`` windows to learn from."""
    if len(features) < windows:
        raise NotEnoughData(
            f"The {name} detector needs at least {windows} training windows and got {len(features)}.",
            hint="Train on more rows, or choose a shorter window.",
        )
