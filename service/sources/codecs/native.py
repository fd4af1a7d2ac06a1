"""The metrics message: JSON with an entity, a time and values.

::

    key    db-7
    value  {"entity": "db-7", "timestamp": 1763769600000, "values": {"cpu": 0.41, "mem": 0.73}, "labels": {"rack": "7"}}

``timestamp`` is milliseconds since the epoch or ISO 8601 with a zone; ``values`` may be an array in the schema's order; a
missing metric is ``null`` or absent; metrics the schema does not know are ignored; ``labels`` and, when the record has a
key, ``entity`` may be left out.

Two readers: a fast one whose types are generated from the schema (one compiled decode a message, columns made for the
whole batch at once), and a plain one for everything the fast one will not take. Only the plain one refuses a message, so
every refusal has its own reason and sentence.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec
import numpy as np

from service.domain import F32, I64, Record, Rejected, Sample, Samples, Schema
from service.errors import InvalidMessage
from service.settings import StreamSettings

MAX_NAME = 256  # characters in an entity's name, a label's name or a label's value
# As milliseconds 1973 and 5138: a number outside this range is surely in another unit.
EARLIEST_MS = 100_000_000_000
LATEST_MS = 100_000_000_000_000
_astuple = msgspec.structs.astuple
_REMEMBERED_KEYS = 200_000  # beyond it the memory of keys is emptied and filled anew, so that random keys cannot fill the process

Fields = tuple[str, int, Sequence[float | None], Mapping[str, str] | None]  # entity, timestamp, values in order, labels


def encode(entity: str, timestamp: int, values: Mapping[str, float | None], labels: Mapping[str, str] | None = None) -> bytes:
    """The value of a metrics message. A NaN becomes ``null``, which means missing."""
    message: dict[str, Any] = {"entity": entity, "timestamp": timestamp, "values": values}
    if labels:
        message["labels"] = labels
    return msgspec.json.encode(message)


class _Reader:
    """The fast path of one schema."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        names = {f"m{at}": name for at, name in enumerate(schema.metrics)}
        values = msgspec.defstruct("Values", [(name, float | None, math.nan) for name in names], rename=names, gc=False)
        fields: list[Any] = [
            ("timestamp", Annotated[int, msgspec.Meta(ge=0, le=2**62)] | str),
            ("values", values | list[float | None]),
            ("entity", str, ""),
            ("labels", dict[str, str] | None, None),
        ]
        self.decode: Callable[[bytes], Any] = msgspec.json.Decoder(msgspec.defstruct("Message", fields, gc=False)).decode
        self._pack = struct.Struct(f"{schema.dims}d").pack

    def matrix(self, rows: Sequence[Sequence[float | None]]) -> F32:
        """Float32 (n, dims); None becomes NaN, and what is too large for float32 becomes infinite."""
        try:  # four times faster than np.array, but does not know None
            exact = np.frombuffer(b"".join([self._pack(*row) for row in rows]))
        except struct.error:
            exact = np.array(rows, dtype=np.float64)
        with np.errstate(over="ignore"):
            return exact.reshape(len(rows), self.schema.dims).astype(np.float32)


class _Columns:
    """Samples of one schema, as they are read."""

    def __init__(self) -> None:
        self.at: list[int] = []
        self.entities: list[str] = []
        self.timestamps: list[int] = []
        self.values: list[Sequence[float | None]] = []
        self.labels: list[Mapping[str, str] | None] = []

    def append(self, at: int, fields: Fields) -> None:
        self.at.append(at)
        self.entities.append(fields[0])
        self.timestamps.append(fields[1])
        self.values.append(fields[2])
        self.labels.append(fields[3])


class NativeCodec:
    """Reads metrics messages. ``schemas(entity)`` is the schema its model reads, or None where no model matches."""

    name = "native"

    def __init__(self, schemas: Callable[[str], Schema | None], limits: StreamSettings) -> None:
        self._schemas = schemas
        self._limits = limits
        self._max_ahead_ms = int(limits.max_ahead_seconds * 1000)
        self._readers: dict[Schema, _Reader] = {}
        self._known: dict[bytes, tuple[str, _Reader]] = {}

    def decode(self, records: Sequence[Record]) -> tuple[Sequence[Sample], list[Rejected]]:
        """Samples in the records' order, and the records refused with their reasons. Never raises."""
        rejected: list[Rejected] = []
        columns: dict[_Reader, _Columns] = {}
        for at, record in enumerate(records):
            read = self._read_quickly(record)
            if read is None:
                try:
                    read = self._read_plainly(record)
                except InvalidMessage as error:
                    rejected.append(Rejected(record, error.reason, str(error)))
                    continue
            column = columns.get(read[0])
            if column is None:
                column = columns[read[0]] = _Columns()
            column.append(at, read[1])
        parts = [self._assemble(reader, column, records, rejected) for reader, column in columns.items()]
        if len(parts) == 1:
            return parts[0][1], rejected
        ordered = sorted(((at, sample) for ats, samples in parts for at, sample in zip(ats, samples, strict=True)), key=_position)
        return [sample for _, sample in ordered], rejected

    def _assemble(
        self, reader: _Reader, column: _Columns, records: Sequence[Record], rejected: list[Rejected]
    ) -> tuple[Sequence[int], Samples]:
        """Columns of the samples that pass what is checked for all rows at once."""
        kept = [records[at] for at in column.at]
        values = reader.matrix(column.values)
        timestamps = np.array(column.timestamps, np.int64)
        latest = np.array([record.timestamp for record in kept], np.int64) + self._max_ahead_ms
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
        """Read a message of the ordinary form whose key was seen before; None for every other."""
        value = record.value
        known = self._known.get(record.key)  # type: ignore[arg-type]  # a null key is simply never known
        if known is None or value is None or len(value) > self._limits.max_message_bytes:
            return None
        entity, reader = known
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
        """Read one message without shortcuts. Raises ``InvalidMessage`` with the reason."""
        message = parse(record, self._limits.max_message_bytes)
        entity = entity_of(message, record.key)
        reader = self._reader_of(entity)
        if record.key is not None:
            if len(self._known) >= _REMEMBERED_KEYS:
                self._known.clear()
            self._known[record.key] = (entity, reader)
        labels = labels_of(message, self._limits.max_labels)
        return reader, (entity, timestamp_of(message), values_of(message, reader.schema), labels)

    def _reader_of(self, entity: str) -> _Reader:
        schema = self._schemas(entity)
        if schema is None:
            raise InvalidMessage("unknown-entity", f"No model matches the entity {entity!r}; add a rule to models in the settings.")
        if schema not in self._readers:
            self._readers[schema] = _Reader(schema)
        return self._readers[schema]


def _position(item: tuple[int, Sample]) -> int:
    return item[0]


def parse(record: Record, max_bytes: int) -> dict[str, Any]:
    """The message as plain values. Raises ``InvalidMessage``: ``too-large``, ``not-json``, ``not-finite``, ``wrong-type``."""
    if record.value is None:
        raise InvalidMessage("not-json", "The message has no value.")
    if len(record.value) > max_bytes:
        raise InvalidMessage("too-large", f"The message has {len(record.value):,} bytes; at most {max_bytes:,} are read.")
    try:
        message = msgspec.json.decode(record.value)
    except RecursionError:
        raise InvalidMessage("not-json", "The message is nested too deeply.") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        if "out of range" in str(error):
            raise InvalidMessage("not-finite", "A number in the message is too large.") from None
        if any(word in record.value for word in (b"NaN", b"Infinity", b"nan", b"inf")):
            raise InvalidMessage("not-finite", "The message is not JSON: it holds NaN or Infinity; send null.") from None
        raise InvalidMessage("not-json", f"The message is not JSON: {error}.") from None
    if not isinstance(message, dict):
        raise InvalidMessage("wrong-type", f"The message is {_kind(message)}; it must be an object.")
    return message


def entity_of(message: Mapping[str, Any], key: bytes | None) -> str:
    """The entity, from the message or else from the key.

    Raises ``InvalidMessage``: ``wrong-type``, ``bad-entity``, ``key-mismatch``.
    """
    entity = message.get("entity")
    if entity is not None and not isinstance(entity, str):
        raise InvalidMessage("wrong-type", f"entity is {_kind(entity)}; it must be a string.")
    named = None
    if key is not None:
        try:
            named = key.decode()
        except UnicodeDecodeError:
            raise InvalidMessage("key-mismatch", "The record's key is not UTF-8; it must be the entity's name.") from None
    if entity and named is not None and entity != named:
        raise InvalidMessage("key-mismatch", f"The record's key is {named[:MAX_NAME]!r} but its entity is {entity[:MAX_NAME]!r}.")
    entity = entity or named
    if not entity:
        raise InvalidMessage("bad-entity", "The message names no entity.")
    if len(entity) > MAX_NAME or not entity.isprintable():
        raise InvalidMessage("bad-entity", f"The entity's name must be at most {MAX_NAME} printable characters.")
    return entity


def timestamp_of(message: Mapping[str, Any]) -> int:
    """Event time in ms. Raises ``InvalidMessage``: ``bad-timestamp``."""
    told = message.get("timestamp")
    if isinstance(told, str):
        try:
            moment = datetime.fromisoformat(told)
        except ValueError:
            raise InvalidMessage("bad-timestamp", f"timestamp {told[:64]!r} is neither milliseconds nor ISO 8601.") from None
        if moment.tzinfo is None:
            raise InvalidMessage("bad-timestamp", f"timestamp {told[:64]!r} has no time zone; end it with Z or an offset.")
        return math.floor(moment.timestamp() * 1000 + 1e-6)
    if told is None or isinstance(told, bool) or not isinstance(told, int | float):
        raise InvalidMessage("bad-timestamp", f"timestamp is {_kind(told)}; it must be milliseconds or ISO 8601.")
    # Clipped only so that it fits int64; check_time refuses it by its own sentence.
    return int(max(-1, min(told, 2**62)))


def check_time(timestamp: int, record_timestamp: int, max_ahead_ms: int) -> None:
    """Raises ``InvalidMessage`` for a time that cannot be: ``bad-timestamp``, ``too-far-ahead``."""
    if timestamp < 0:
        raise InvalidMessage("bad-timestamp", "timestamp is negative.")
    if timestamp < EARLIEST_MS:
        raise InvalidMessage("bad-timestamp", f"timestamp {timestamp} looks like seconds; it must be milliseconds.")
    if timestamp > LATEST_MS:
        raise InvalidMessage("bad-timestamp", f"timestamp {timestamp} is after the year 5138; it must be milliseconds.")
    if timestamp > record_timestamp + max_ahead_ms:
        ahead, most = (timestamp - record_timestamp) / 1000, max_ahead_ms / 1000
        raise InvalidMessage("too-far-ahead", f"timestamp is {ahead:,.0f} s ahead of the record's own; {most:g} s are allowed.")


def values_of(message: Mapping[str, Any], schema: Schema) -> list[float | None]:
    """Values in the schema's order. Raises ``InvalidMessage``: ``wrong-type``, ``unknown-shape``."""
    values = message.get("values")
    if isinstance(values, list):
        if len(values) != schema.dims:
            raise InvalidMessage("unknown-shape", f"values has {len(values)} numbers; the model reads {schema.dims}.")
        named = zip(schema.metrics, values, strict=True)
    elif isinstance(values, dict):
        named = zip(schema.metrics, map(values.get, schema.metrics), strict=True)
    else:
        raise InvalidMessage("wrong-type", f"values is {_kind(values)}; it must be an object or an array of numbers.")
    return [_number(name, value) for name, value in named]


def check_values(values: F32, schema: Schema) -> None:
    """Raises ``InvalidMessage`` for float32 values that cannot be scored: ``not-finite``, ``unknown-shape``."""
    infinite = np.flatnonzero(np.isinf(values))
    if len(infinite):
        raise InvalidMessage("not-finite", f"{schema.metrics[infinite[0]]} is too large for a 32-bit float.")
    if np.isnan(values).all():
        wanted = ", ".join(schema.metrics[:5]) + (", …" if schema.dims > 5 else "")
        raise InvalidMessage("unknown-shape", f"values has none of the metrics that the model reads ({wanted}).")


def labels_of(message: Mapping[str, Any], most: int) -> dict[str, str] | None:
    """The labels, if any. Raises ``InvalidMessage``: ``wrong-type``, ``bad-labels``."""
    labels = message.get("labels")
    if labels is None:
        return None
    if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
        raise InvalidMessage("wrong-type", "labels must be an object of strings.")
    if len(labels) > most:
        raise InvalidMessage("bad-labels", f"The message has {len(labels)} labels; at most {most} are taken.")
    if not labels_fit(labels, most):
        raise InvalidMessage("bad-labels", f"A label's name or value is longer than {MAX_NAME} characters.")
    return labels


def labels_fit(labels: Mapping[str, str], most: int) -> bool:
    """Whether there are at most ``most`` labels and none of them is too long."""
    return len(labels) <= most and all(len(name) <= MAX_NAME and len(value) <= MAX_NAME for name, value in labels.items())


def _number(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidMessage("wrong-type", f"{name} is {_kind(value)}; it must be a number or null.")
    try:
        return float(value)
    except OverflowError:
        raise InvalidMessage("not-finite", f"{name} is too large for a 32-bit float.") from None


def _kind(value: Any) -> str:
    kinds = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array", dict: "an object"}
    return kinds.get(type(value), "missing")
