"""Loose rows (entity, time, values) laid on the time grid as a data set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.domain import F32, I64, Dataset, Schema, Series
from service.errors import DatasetError

LONGEST_GAP = 100  # rows; a longer gap begins a new series, so that a file with holes costs no memory for them


def infer_interval(entities: Sequence[str], timestamps: I64) -> int:
    """The median step between neighbouring rows of one entity, in ms. Raises ``DatasetError`` when there is none."""
    names, codes = np.unique(np.asarray(entities, dtype=object).astype(str), return_inverse=True)
    order = np.lexsort((timestamps, codes))
    steps = np.diff(timestamps[order])[np.diff(codes[order]) == 0]
    steps = steps[steps > 0]
    if not len(steps):
        raise DatasetError(
            f"The time between rows cannot be measured: no entity of {len(names)} has two rows at different times.",
            hint="Give more rows, or name the interval.",
        )
    return max(1, round(float(np.median(steps))))


def to_dataset(
    metrics: Sequence[str],
    entities: Sequence[str],
    timestamps: I64,
    values: F32,
    *,
    labels: NDArray[np.uint8] | None = None,
    interval_ms: int | None = None,
) -> Dataset:
    """A data set from n rows in any order.

    ``timestamps``: int64 (n,), ms; ``values``: float32 (n, dims), NaN where missing. Of rows in one place of the grid the
    first in time stays; missing rows are NaN; a gap of more than ``LONGEST_GAP`` rows begins a new series.
    """
    interval = interval_ms or infer_interval(entities, timestamps)
    rows_of: dict[str, list[int]] = {}
    for at, entity in enumerate(entities):
        rows_of.setdefault(entity, []).append(at)
    series: list[Series] = []
    for entity, ats in rows_of.items():
        order = np.array(ats)[np.argsort(timestamps[ats], kind="stable")]
        rows, first = np.unique(timestamps[order] // interval, return_index=True)
        order = order[first]
        for part in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows) > LONGEST_GAP + 1) + 1):
            start = int(rows[part[0]])
            places = rows[part] - start
            laid = np.full((int(places[-1]) + 1, len(metrics)), np.nan, np.float32)
            laid[places] = values[order[part]]
            marked = None
            if labels is not None:
                marked = np.zeros(len(laid), np.uint8)
                marked[places] = labels[order[part]]
            series.append(Series(entity, start, laid, marked))
    return Dataset(Schema(tuple(metrics), interval), tuple(series))
