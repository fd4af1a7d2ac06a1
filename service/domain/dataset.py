"""Whole series, for training, evaluation and replay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.domain.arrays import F32
from service.domain.samples import Schema


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One entity's rows on the grid, equally spaced: values float32 (n, dims) with NaN where missing; ``start_row`` is
    the grid row of ``values[0]``; ``labels`` uint8 (n,), 1 = anomalous, or None where there are no labels."""

    entity: str
    start_row: int
    values: F32
    labels: NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Series that share one schema, for training, evaluation and replay."""

    schema: Schema
    series: Sequence[Series]

    @property
    def rows(self) -> int:
        """Rows of all series together."""
        return sum(len(series.values) for series in self.series)
