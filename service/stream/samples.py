"""Samples made from plain rows, and a selection of samples."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.domain import Mask, Record, Samples, Schema


def rows_to_samples(rows: NDArray[Any], schema: Schema, *, entity: str, first_row: int = 0) -> Samples:
    """Rows without a topic as samples of one entity, one grid row after the other from ``first_row`` on.

    ``rows`` is (dims,) or (n, dims), NaN where missing. Raises ``ValueError`` for any other shape.
    """
    values = np.atleast_2d(np.asarray(rows, np.float32))
    if values.ndim != 2 or values.shape[1] != schema.dims:
        raise ValueError(f"each item must be ({schema.dims},) or (n, {schema.dims}), not {np.shape(rows)}")
    numbers = np.arange(first_row, first_row + len(values), dtype=np.int64)
    times = numbers * schema.interval_ms
    records = [Record("", 0, int(at), int(time), None, None) for at, time in zip(numbers, times, strict=True)]
    return Samples(schema, [entity] * len(values), times, numbers, values, records)


def select(columns: Samples, accepted: Mask) -> Samples:
    """The samples where ``accepted``, bool (n,), is true, in the same order."""
    at = np.flatnonzero(accepted).tolist()
    return Samples(
        columns.schema,
        [columns.entities[i] for i in at],
        columns.timestamps[at],
        columns.rows[at],
        columns.values[at],
        [columns.records[i] for i in at],
        None if columns.labels is None else [columns.labels[i] for i in at],
    )
