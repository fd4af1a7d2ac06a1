"""The rules of a metrics message, one function per field, each with the sentence that says what is wrong.

Slow and complete: ``native`` reads valid messages by faster means and comes here for all others.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
import numpy as np

from service.domain import F32, Record, Schema
from service.errors import InvalidMessage

MAX_NAME = 256  # characters in an entity's name, a label's name or a label's value
MAX_LABELS_LENGTH = 2048  # characters of all labels of a message: they are kept per entity
# The years 1973 and 5138: a number outside this range is not in milliseconds.
EARLIEST_MS = 100_000_000_000
LATEST_MS = 100_000_000_000_000
_NOT_FINITE = re.compile(rb"NaN|Infinity|nan|inf").search


def encode(entity: str, timestamp: int, values: Mapping[str, float | None], labels: Mapping[str, str] | None = None) -> bytes:
    """The value of a metrics message. A NaN becomes ``null``, which means missing."""
    message: dict[str, Any] = {"entity": entity, "timestamp": timestamp, "values": values}
    if labels:
        message["labels"] = labels
    return msgspec.json.encode(message)


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
        if _NOT_FINITE(record.value):
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
    value = message.get("timestamp")
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise InvalidMessage("bad-timestamp", f"timestamp {value[:64]!r} is neither milliseconds nor ISO 8601.") from None
        if moment.tzinfo is None:
            raise InvalidMessage("bad-timestamp", f"timestamp {value[:64]!r} has no time zone; end it with Z or an offset.")
        return math.floor(moment.timestamp() * 1000 + 1e-6)
    if value is None or isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidMessage("bad-timestamp", f"timestamp is {_kind(value)}; it must be milliseconds or ISO 8601.")
    # Clipped to fit int64; check_time refuses it.
    return int(max(-1, min(value, 2**62)))


def check_time(timestamp: int, record_timestamp: int, max_ahead_ms: int) -> None:
    """Raises ``InvalidMessage`` for an impossible time: ``bad-timestamp``, ``too-far-ahead``."""
    if timestamp < 0:
        raise InvalidMessage("bad-timestamp", "timestamp is negative.")
    if timestamp < EARLIEST_MS:
        raise InvalidMessage("bad-timestamp", f"timestamp {timestamp} looks like seconds; it must be milliseconds.")
    if timestamp > LATEST_MS:
        raise InvalidMessage("bad-timestamp", f"timestamp {timestamp} is after the year 5138; it must be milliseconds.")
    if timestamp > record_timestamp + max_ahead_ms:
        ahead, allowed = (timestamp - record_timestamp) / 1000, max_ahead_ms / 1000
        raise InvalidMessage("too-far-ahead", f"timestamp is {ahead:,.0f} s ahead of the record's own; {allowed:g} s are allowed.")


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


def unnamed_metrics(dims: int) -> tuple[str, ...]:
    """The names of the metrics of an array."""
    return tuple(f"m{at:02d}" for at in range(dims))


def values_by_name(message: Mapping[str, Any]) -> dict[str, float | None]:
    """Values of a message without a known schema; those of an array are named m00, m01, …

    Raises ``InvalidMessage``: ``wrong-type``, ``not-finite``.
    """
    values = message.get("values")
    if isinstance(values, list):
        values = dict(zip(unnamed_metrics(len(values)), values, strict=True))
    if not isinstance(values, dict):
        raise InvalidMessage("wrong-type", f"values is {_kind(values)}; it must be an object or an array of numbers.")
    return {name: _number(name, value) for name, value in values.items()}


def check_values(values: F32, schema: Schema) -> None:
    """Raises ``InvalidMessage`` for float32 values that cannot be scored: ``not-finite``, ``unknown-shape``."""
    infinite = np.flatnonzero(np.isinf(values))
    if len(infinite):
        raise InvalidMessage("not-finite", f"{schema.metrics[infinite[0]]} is too large for a 32-bit float.")
    if np.isnan(values).all():
        wanted = ", ".join(schema.metrics[:5]) + (", …" if schema.dims > 5 else "")
        raise InvalidMessage("unknown-shape", f"values has none of the metrics that the model reads ({wanted}).")


def labels_of(message: Mapping[str, Any], max_labels: int) -> dict[str, str] | None:
    """The labels, if any. Raises ``InvalidMessage``: ``wrong-type``, ``bad-labels``."""
    labels = message.get("labels")
    if labels is None:
        return None
    if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
        raise InvalidMessage("wrong-type", "labels must be an object of strings.")
    if len(labels) > max_labels:
        raise InvalidMessage("bad-labels", f"The message has {len(labels)} labels; at most {max_labels} are taken.")
    if not labels_fit(labels, max_labels):
        sentence = f"A label's name or value is longer than {MAX_NAME} characters, or all of them than {MAX_LABELS_LENGTH:,}."
        raise InvalidMessage("bad-labels", sentence)
    return labels


def labels_fit(labels: Mapping[str, str], max_labels: int) -> bool:
    """Whether there are at most ``max_labels``, none of them too long, nor all of them together."""
    if len(labels) > max_labels:
        return False
    length = 0
    for name, value in labels.items():
        if len(name) > MAX_NAME or len(value) > MAX_NAME:
            return False
        length += len(name) + len(value)
    return length <= MAX_LABELS_LENGTH


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
