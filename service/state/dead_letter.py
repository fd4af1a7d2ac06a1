"""How a rejected record lies in the dead-letter topic: key and value bytes unchanged, the rest in headers.

The headers are named as Kafka Streams names them, so that tools which know those read ours too.
"""

from __future__ import annotations

import msgspec

from service.domain import Record, Rejected
from service.errors import InvalidMessage

PREFIX = "__streams.errors."
REASON = "tidewatch.reason"
NULL_VALUE = "tidewatch.value-was-null"  # only where key and value were null: the value is empty here
_EXCEPTION = (f"{PREFIX}exception", f"{InvalidMessage.__module__}.{InvalidMessage.__qualname__}".encode())
TRUNCATED = "tidewatch.truncated-from-bytes"  # only where the broker did not take the whole value


class DeadLetter(msgspec.Struct, frozen=True):
    """A record for the dead-letter topic."""

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


def dead_letter(rejected: Rejected) -> DeadLetter:
    """The record's own bytes and headers, with where it came from and why it was refused."""
    record = rejected.record
    key, value = record.key, record.value
    headers = (
        *record.headers,
        _EXCEPTION,
        (f"{PREFIX}message", rejected.message.encode(errors="replace")),
        (f"{PREFIX}topic", record.topic.encode()),
        (f"{PREFIX}partition", b"%d" % record.partition),
        (f"{PREFIX}offset", b"%d" % record.offset),
        (REASON, rejected.reason.encode()),
    )
    if key is None and value is None:  # the client writes no record that has neither
        value, headers = b"", (*headers, (NULL_VALUE, b"true"))
    return DeadLetter(key, value, headers)


def truncated(letter: DeadLetter, most: int) -> DeadLetter:
    """The same with only the beginning of its value, ``most`` bytes in all, and a header that says how long it was."""
    value, key = letter.value or b"", (letter.key or b"")[:1000]
    ours = tuple(header for header in letter.headers if header[0] == REASON or header[0].startswith(PREFIX))
    headers = (*ours, (TRUNCATED, str(len(value)).encode()))
    room = most - len(key) - sum(len(name) + len(told) + 10 for name, told in headers)
    return DeadLetter(key or None, value[: max(0, room)], headers)


class Letter(msgspec.Struct, frozen=True):
    """A dead letter as people ask for it: where it lies (``at``: ``partition:offset``), why, and the record it was."""

    at: str
    reason: str
    message: str
    record: Record
    truncated: bool = False


def read_letter(record: Record) -> Letter:
    """The inverse of ``dead_letter``; headers that are missing or odd read as unknown."""
    ours = {name: value.decode(errors="replace") for name, value in record.headers if name.startswith((PREFIX, "tidewatch."))}
    original = Record(
        topic=ours.get(f"{PREFIX}topic", ""),
        partition=_number(ours.get(f"{PREFIX}partition")),
        offset=_number(ours.get(f"{PREFIX}offset")),
        timestamp=record.timestamp,
        key=record.key,
        value=None if ours.get(NULL_VALUE) else record.value,
        headers=tuple(header for header in record.headers if header[0] not in ours),
    )
    at = f"{record.partition}:{record.offset}"
    return Letter(at, ours.get(REASON, "unknown"), ours.get(f"{PREFIX}message", ""), original, TRUNCATED in ours)


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else -1
