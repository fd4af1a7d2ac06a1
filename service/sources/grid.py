"""Rows (entity, time, values) placed on the time grid as a data set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.domain import F32, I64, Dataset, Schema, Series
from service.errors import DatasetError

LONGEST_GAP = 100  # rows; a longer gap begins a new series, so that gaps in a file cost no memory


# Intervals that people configure, in ms: a measured one this close (as a share) is meant to be this one.
_ROUND_MS = (
    *(1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500),
    *(1000 * seconds for seconds in (1, 2, 3, 5, 10, 15, 20, 30)),
    *(60_000 * minutes for minutes in (1, 2, 3, 5, 10, 15, 20, 30)),
    *(3_600_000 * hours for hours in (1, 2, 3, 4, 6, 8, 12, 24)),
)
_ROUND_WITHIN = 0.002


def infer_interval(entities: Sequence[str], timestamps: I64) -> int:
    """The time between rows, in ms. Raises ``DatasetError`` where no entity has two rows at different times.

    It is the mean of the steps between neighbouring rows of one entity that are nearer to the median step than to twice or
    half of it: the jitter of the producers' clocks cancels out in the mean, which it does not in the median. A round interval
    (10 s, 1 min) that lies within 0.2 % is taken in its place: on a grid of 10.002 s, rows that come every 10 s would meet a
    boundary twice a day, and two of them would fall into one row.
    """
    names, codes = np.unique(np.asarray(entities, dtype=object).astype(str), return_inverse=True)
    order = np.lexsort((timestamps, codes))
    steps = np.diff(timestamps[order])[np.diff(codes[order]) == 0]
    steps = steps[steps > 0]
    if not len(steps):
        raise DatasetError(
            f"The time between rows cannot be measured: no entity of {len(names)} has two rows at different times.",
            hint="Give more rows, or name the interval.",
        )
    median = float(np.median(steps))
    measured = float(np.mean(steps[(steps > 0.7 * median) & (steps < 1.5 * median)]))
    nearest = min(_ROUND_MS, key=lambda round_ms: abs(measured - round_ms))
    return nearest if abs(measured - nearest) <= _ROUND_WITHIN * nearest else max(1, round(measured))


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

    ``timestamps``: int64 (n,), ms; ``values``: float32 (n, dims), NaN where missing. Of several rows in one grid row the
    first in time is kept; missing rows are NaN; a gap of more than ``LONGEST_GAP`` rows begins a new series.
    """
    interval = interval_ms or infer_interval(entities, timestamps)
    rows_of: dict[str, list[int]] = {}
    for at, entity in enumerate(entities):
        rows_of.setdefault(entity, []).append(at)
    series: list[Series] = []
    for entity, members in rows_of.items():
        order = np.array(members)[np.argsort(timestamps[members], kind="stable")]
        rows, first = np.unique(timestamps[order] // interval, return_index=True)
        order = order[first]
        for part in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows) > LONGEST_GAP + 1) + 1):
            start = int(rows[part[0]])
            places = rows[part] - start
            grid = np.full((int(places[-1]) + 1, len(metrics)), np.nan, np.float32)
            grid[places] = values[order[part]]
            marked = None
            if labels is not None:
                marked = np.zeros(len(grid), np.uint8)
                marked[places] = labels[order[part]]
            series.append(Series(entity, start, grid, marked))
    return Dataset(Schema(tuple(metrics), interval), tuple(series))
