"""The metrics message: JSON with an entity, a time and values.

::

    key    db-7
    value  {"entity": "db-7", "timestamp": 1763769600000, "values": {"cpu": 0.41, "mem": 0.73}, "labels": {"rack": "7"}}

``timestamp`` is milliseconds since the epoch or ISO 8601 with a zone; ``values`` may be an array in the schema's order; a
missing metric is ``null`` or absent; metrics the schema does not know are ignored; ``labels`` and, when the record has a
key, ``entity`` may be left out.

Three readers, each for the messages that the one before leaves: ``scanner`` reads whole batches of the common form in compiled
code; msgspec with types generated from the schema reads the fields it knows, message by message; a plain reader takes the rest,
also messages with further fields, whose content msgspec would skip unread. Only the plain reader rejects a message, so every
rejection has its own reason and sentence.
"""

from __future__ import annotations

import math
import struct
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.domain import F32, I64, Record, Rejected, Sample, Samples, Schema
from service.errors import InvalidMessage
from service.settings import StreamSettings
from service.sources.codecs.json_kernels import Bytes
from service.sources.codecs.message import (
    EARLIEST_MS,
    LATEST_MS,
    check_time,
    check_values,
    entity_of,
    labels_fit,
    labels_of,
    parse,
    timestamp_of,
    values_of,
)
from service.sources.codecs.scanner import LEFT, READ, Scanner

_decode_labels = msgspec.json.Decoder(dict[str, str]).decode
_astuple = msgspec.structs.astuple
# Both caches are emptied at their limit, so that random keys or labels cannot fill the memory.
_MAX_CACHED_KEYS = 200_000
_MAX_CACHED_LABELS = 10_000

Fields = tuple[str, int, Sequence[float | None], Mapping[str, str] | None]  # entity, timestamp, values in order, labels


class _Reader:
    """The fast readers of one schema."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        names = {f"m{at}": name for at, name in enumerate(schema.metrics)}
        values = msgspec.defstruct(
            "Values", [(name, float | None, math.nan) for name in names], rename=names, gc=False, forbid_unknown_fields=True
        )
        fields: list[Any] = [
            ("timestamp", Annotated[int, msgspec.Meta(ge=0, le=2**62)] | str),
            ("values", values | list[float | None]),
            ("entity", str, ""),
            ("labels", dict[str, str] | None, None),
        ]
        self.decode: Callable[[bytes], Any] = msgspec.json.Decoder(
            msgspec.defstruct("Message", fields, gc=False, forbid_unknown_fields=True)
        ).decode
        self.scanner = Scanner(schema.metrics)
        self._pack = struct.Struct(f"{schema.dims}d").pack

    def matrix(self, rows: Sequence[Sequence[float | None]]) -> F32:
        """Float32 (n, dims); None becomes NaN, and what is too large for float32 becomes infinite."""
        try:  # four times faster than np.array, but rejects None
            exact = np.frombuffer(b"".join([self._pack(*row) for row in rows]))
        except struct.error:
            exact = np.frombuffer(b"".join([self._packed(row) for row in rows]))
        with np.errstate(over="ignore"):
            return exact.reshape(len(rows), self.schema.dims).astype(np.float32)

    def _packed(self, row: Sequence[float | None]) -> bytes:
        try:
            return self._pack(*row)
        except struct.error:
            return self._pack(*[math.nan if value is None else value for value in row])


class _Columns:
    """Samples of one schema: first those that the scanner read, then those that were read one by one."""

    def __init__(self) -> None:
        self.at: list[int] = []
        self.entities: list[str] = []
        self.timestamps: list[int] = []
        self.values: list[Sequence[float | None]] = []
        self.labels: list[Mapping[str, str] | None] = []
        self.scanned: tuple[I64, F32] | None = None  # timestamps and values of the first of ``at``

    def append(self, at: int, fields: Fields) -> None:
        entity, timestamp, values, labels = fields
        self.at.append(at)
        self.entities.append(entity)
        self.timestamps.append(timestamp)
        self.values.append(values)
        self.labels.append(labels)

    def arrays(self, reader: _Reader) -> tuple[I64, F32]:
        """Timestamps, int64 (n,), and values, float32 (n, dims), of all samples."""
        if self.scanned is not None and not self.values:
            return self.scanned
        timestamps, values = np.array(self.timestamps, np.int64), reader.matrix(self.values)
        if self.scanned is None:
            return timestamps, values
        scanned_timestamps, scanned_values = self.scanned
        return np.concatenate([scanned_timestamps, timestamps]), np.concatenate([scanned_values, values])


class NativeCodec:
    """Reads metrics messages. ``schemas(entity)``: the schema of the entity's model, or None where no model matches."""

    name = "native"

    def __init__(self, schemas: Callable[[str], Schema | None], limits: StreamSettings) -> None:
        self._schemas = schemas
        self._limits = limits
        self._max_ahead_ms = int(limits.max_ahead_seconds * 1000)
        self._readers: dict[Schema, _Reader] = {}
        self._by_key: dict[bytes, tuple[str, _Reader]] = {}  # entity and reader
        self._cached_labels: dict[bytes, Mapping[str, str]] = {}

    def decode(self, records: Sequence[Record]) -> tuple[Sequence[Sample], list[Rejected]]:
        """Samples in the records' order, and the rejected records with their reasons. Never raises."""
        rejected: list[Rejected] = []
        columns: dict[_Reader, _Columns] = defaultdict(_Columns)
        for at in self._scan(records, columns):
            record = records[at]
            read = self._read_quickly(record)
            if read is None:
                try:
                    read = self._read_plainly(record)
                except InvalidMessage as error:
                    rejected.append(Rejected(record, error.reason, str(error)))
                    continue
            reader, fields = read
            columns[reader].append(at, fields)
        parts = [self._assemble(reader, column, records, rejected) for reader, column in columns.items()]
        if len(parts) == 1:
            ((_, samples),) = parts
            return samples, rejected
        ordered = sorted(((at, sample) for ats, samples in parts for at, sample in zip(ats, samples, strict=True)), key=_place)
        return [sample for _, sample in ordered], rejected

    def _scan(self, records: Sequence[Record], columns: dict[_Reader, _Columns]) -> list[int]:
        """Scan all records with a cached key; the places of those that must be read one by one."""
        left: list[int] = []
        by_key, max_bytes = self._by_key, self._limits.max_message_bytes
        groups = defaultdict[_Reader, tuple[list[int], list[str]]](lambda: ([], []))
        for at, record in enumerate(records):
            cached = by_key.get(record.key)  # type: ignore[arg-type]  # a null key is never cached
            if cached is None or record.value is None or len(record.value) > max_bytes:
                left.append(at)
            else:
                entity, reader = cached
                places, entities = groups[reader]
                places.append(at)
                entities.append(entity)
        for reader, (places, entities) in groups.items():
            left += self._scan_group(reader, places, entities, records, columns[reader])
        left.sort()
        return left

    def _scan_group(
        self, reader: _Reader, places: list[int], entities: list[str], records: Sequence[Record], column: _Columns
    ) -> list[int]:
        some = records if len(places) == len(records) else [records[at] for at in places]
        keys: list[bytes] = [record.key for record in some]  # type: ignore[misc]  # all of them have a key
        states, timestamps, values, spans, text = reader.scanner.scan([record.value for record in some], keys)  # type: ignore[misc]
        labels = self._labels(spans, text, states)
        left: list[int] = []
        if states.any():
            which = np.flatnonzero(states != READ).tolist()
            left = [places[at] for at in which]
            good = np.flatnonzero(states == READ)
            timestamps, values, which = timestamps[good], values[good], good.tolist()
            places, entities, labels = [places[at] for at in which], [entities[at] for at in which], [labels[at] for at in which]
        column.at, column.entities, column.labels, column.scanned = places, entities, labels, (timestamps, values)
        return left

    def _labels(self, spans: I64, text: Bytes, states: NDArray[np.int8]) -> list[Mapping[str, str] | None]:
        """Each sample's labels; a message whose labels are invalid is marked ``LEFT``."""
        labels: list[Mapping[str, str] | None] = [None] * len(spans)
        for at in np.flatnonzero((spans[:, 1] > 0) & (states == READ)).tolist():
            encoded = text[spans[at, 0] : spans[at, 1]].tobytes()
            decoded = self._cached_labels.get(encoded)
            if decoded is None:
                try:
                    decoded = _decode_labels(encoded)
                except (msgspec.MsgspecError, UnicodeDecodeError):
                    decoded = None
                if decoded is None or not labels_fit(decoded, self._limits.max_labels):
                    states[at] = LEFT
                    continue
                if len(self._cached_labels) >= _MAX_CACHED_LABELS:
                    self._cached_labels.clear()
                self._cached_labels[encoded] = decoded
            labels[at] = decoded
        return labels

    def _assemble(
        self, reader: _Reader, column: _Columns, records: Sequence[Record], rejected: list[Rejected]
    ) -> tuple[Sequence[int], Samples]:
        """The samples that pass the checks of times and values, and their places; the others go to ``rejected``."""
        timestamps, values = column.arrays(reader)
        if column.scanned is not None and column.values:
            order = np.argsort(np.array(column.at), kind="stable")
            timestamps, values = timestamps[order], values[order]
            for each in (column.at, column.entities, column.labels):
                each[:] = [each[at] for at in order]
        kept = records if len(column.at) == len(records) else [records[at] for at in column.at]
        # A record's timestamp comes from the producer too: capped before the sum, which could overflow.
        latest = np.minimum(np.array([record.timestamp for record in kept], np.int64), LATEST_MS) + self._max_ahead_ms
        infinite, empty = np.isinf(values).any(axis=1), np.isnan(values).all(axis=1)
        outside = (timestamps < EARLIEST_MS) | (timestamps > np.minimum(latest, LATEST_MS))
        labels = column.labels if any(column.labels) else None
        bad = infinite | empty | outside
        if not bad.any():
            rows: I64 = timestamps // reader.schema.interval_ms
            return column.at, Samples(reader.schema, column.entities, timestamps, rows, values, kept, labels)
        for at in np.flatnonzero(bad).tolist():
            try:
                check_time(int(timestamps[at]), kept[at].timestamp, self._max_ahead_ms)
                check_values(values[at], reader.schema)
            except InvalidMessage as error:
                rejected.append(Rejected(kept[at], error.reason, str(error)))
        good = np.flatnonzero(~bad).tolist()
        timestamps = timestamps[good]
        samples = Samples(
            reader.schema,
            [column.entities[at] for at in good],
            timestamps,
            timestamps // reader.schema.interval_ms,
            values[good],
            [kept[at] for at in good],
            None if labels is None else [labels[at] for at in good],
        )
        return [column.at[at] for at in good], samples

    def _read_quickly(self, record: Record) -> tuple[_Reader, Fields] | None:
        """Read a message of the common form with a cached key; None for every other."""
        value = record.value
        cached = self._by_key.get(record.key)  # type: ignore[arg-type]  # a null key is never cached
        if cached is None or value is None or len(value) > self._limits.max_message_bytes:
            return None
        entity, reader = cached
        try:
            message = reader.decode(value)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        values, labels = message.values, message.labels
        if type(message.timestamp) is not int or (message.entity and message.entity != entity):
            return None
        if labels and not labels_fit(labels, self._limits.max_labels):
            return None
        if type(values) is not list:
            values = _astuple(values)
        elif len(values) != reader.schema.dims:
            return None
        return reader, (entity, message.timestamp, values, labels)

    def _read_plainly(self, record: Record) -> tuple[_Reader, Fields]:
        """Read one message by the rules of ``message``. Raises ``InvalidMessage`` with the reason."""
        message = parse(record, self._limits.max_message_bytes)
        entity = entity_of(message, record.key)
        reader = self._reader_of(entity)
        if record.key is not None:
            if len(self._by_key) >= _MAX_CACHED_KEYS:
                self._by_key.clear()
            self._by_key[record.key] = (entity, reader)
        labels = labels_of(message, self._limits.max_labels)
        return reader, (entity, timestamp_of(message), values_of(message, reader.schema), labels)

    def _reader_of(self, entity: str) -> _Reader:
        schema = self._schemas(entity)
        if schema is None:
            raise InvalidMessage("unknown-entity", f"No model matches the entity {entity!r}; add a rule to models in the settings.")
        if schema not in self._readers:
            self._readers[schema] = _Reader(schema)
        return self._readers[schema]


def _place(item: tuple[int, Sample]) -> int:
    place, _ = item
    return place
