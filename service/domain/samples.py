"""What is read from a topic: records, and the samples in them on a time grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import msgspec
import numpy as np

from service.domain.arrays import F32, I64


class Schema(msgspec.Struct, frozen=True):
    """Which metrics a model reads, in which order, on which time grid."""

    metrics: tuple[str, ...]
    interval_ms: int

    @property
    def dims(self) -> int:
        """How many metrics a row has."""
        return len(self.metrics)


class Record(msgspec.Struct, frozen=True, gc=False):
    """One record of a topic: bytes and position, nothing decoded. ``timestamp`` is the record's own, in ms."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()


class Rejected(msgspec.Struct, frozen=True):
    """A record that cannot be used, with its reason (``errors.InvalidMessage.reason``) and a sentence for people."""

    record: Record
    reason: str
    message: str


class Sample(msgspec.Struct, frozen=True, eq=False):
    """One row of one entity, in the schema's order.

    ``values``: float32 (dims,), NaN where missing. ``mask``: bool (dims,), True where observed.
    ``row`` = floor(timestamp / interval). ``record`` keeps the bytes and position it came from.
    """

    entity: str
    row: int
    timestamp: int
    values: Any  # F32 (dims,); msgspec does not know array types
    mask: Any  # Mask (dims,)
    record: Record
    labels: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True, eq=False)
class Samples(Sequence[Sample]):
    """Many samples of one schema as columns, so that no stage has to loop over them. Codecs make these.

    ``timestamps``, ``rows``: int64 (n,); ``values``: float32 (n, dims), NaN where missing (the mask is exactly its
    complement); ``entities``, ``records`` and, when any sample has some, ``labels``: n of each. Indexing and
    iterating make ordinary ``Sample`` values.
    """

    schema: Schema
    entities: Sequence[str]
    timestamps: I64
    rows: I64
    values: F32
    records: Sequence[Record]
    labels: Sequence[Mapping[str, str] | None] | None = None

    @classmethod
    def of(cls, schema: Schema, samples: Sequence[Sample]) -> Samples:
        """The same samples as columns; those already in columns are returned as they are."""
        if isinstance(samples, Samples):
            return samples
        values = np.empty((len(samples), schema.dims), np.float32)
        for at, sample in enumerate(samples):
            values[at] = np.where(sample.mask, sample.values, np.float32(np.nan))
        return cls(
            schema,
            [sample.entity for sample in samples],
            np.fromiter((sample.timestamp for sample in samples), np.int64, len(samples)),
            np.fromiter((sample.row for sample in samples), np.int64, len(samples)),
            values,
            [sample.record for sample in samples],
            [sample.labels for sample in samples],
        )

    def __len__(self) -> int:
        return len(self.entities)

    @overload
    def __getitem__(self, at: int) -> Sample: ...

    @overload
    def __getitem__(self, at: slice) -> Samples: ...

    def __getitem__(self, at: int | slice) -> Sample | Samples:
        labels = None if self.labels is None else self.labels[at]
        if isinstance(at, slice):
            columns = (self.entities[at], self.timestamps[at], self.rows[at], self.values[at], self.records[at])
            return Samples(self.schema, *columns, labels)  # type: ignore[arg-type]  # a slice of labels is a sequence
        values = self.values[at]
        return Sample(
            entity=self.entities[at],
            row=int(self.rows[at]),
            timestamp=int(self.timestamps[at]),
            values=values,
            mask=~np.isnan(values),
            record=self.records[at],
            labels=labels or {},  # type: ignore[arg-type]  # one item of labels is a mapping or None
        )
