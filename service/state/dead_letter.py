"""The format of the dead-letter topic: key and value bytes of the rejected record unchanged, the rest in headers.

The headers have the names that Kafka Streams uses, so that tools for those read ours too.
"""

from __future__ import annotations

import msgspec

from service.domain import Record, Rejected
from service.errors import InvalidMessage

PREFIX = "__streams.errors."
_OURS = (PREFIX, "tidewatch.")  # a producer's headers with such names would be taken for what we say about the record
_LONGEST_MESSAGE = 4000
REASON = "tidewatch.reason"
NULL_VALUE = "tidewatch.value-was-null"  # only where key and value were null; the value is empty here
_EXCEPTION = (f"{PREFIX}exception", f"{InvalidMessage.__module__}.{InvalidMessage.__qualname__}".encode())
TRUNCATED = "tidewatch.truncated-from-bytes"  # only where the whole value is too large for the topic


class DeadLetter(msgspec.Struct, frozen=True):
    """A record to write to the dead-letter topic."""

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the record on the wire, uncompressed, without what a batch adds."""
        return len(self.key or b"") + len(self.value or b"") + _nbytes(self.headers)


def dead_letter(rejected: Rejected) -> DeadLetter:
    """The record's own bytes and headers, with where it came from and why it was rejected.

    Its headers with names of ours are dropped.
    """
    record = rejected.record
    key, value = record.key, record.value
    headers: tuple[tuple[str, bytes | None], ...] = (
        *(header for header in record.headers if not header[0].startswith(_OURS)),
        _EXCEPTION,
        (f"{PREFIX}message", rejected.message.encode(errors="replace")[:_LONGEST_MESSAGE]),
        (f"{PREFIX}topic", record.topic.encode()),
        (f"{PREFIX}partition", b"%d" % record.partition),
        (f"{PREFIX}offset", b"%d" % record.offset),
        (REASON, rejected.reason.encode()),
    )
    if key is None and value is None:  # aiokafka writes no record that has neither
        value, headers = b"", (*headers, (NULL_VALUE, b"true"))
    return DeadLetter(key, value, headers)


def truncated(letter: DeadLetter, max_bytes: int) -> DeadLetter:
    """The same with the beginning of its value, at most ``max_bytes`` in all, and a header with the length of the whole value."""
    value, key = letter.value or b"", (letter.key or b"")[:1000]
    ours = tuple((name, content) for name, content in letter.headers if name.startswith(_OURS))
    headers = (*ours, (TRUNCATED, str(len(value)).encode()))
    room = max_bytes - len(key) - _nbytes(headers)
    return DeadLetter(key or None, value[: max(0, room)], headers)


class StoredDeadLetter(msgspec.Struct, frozen=True):
    """A dead letter as read back: its position (``at``: ``partition:offset``), the reason, and the original record."""

    at: str
    reason: str
    message: str
    record: Record
    truncated: bool = False


def read_dead_letter(record: Record) -> StoredDeadLetter:
    """The inverse of ``dead_letter``; missing or malformed headers are read as unknown."""
    ours = {name: (value or b"").decode(errors="replace") for name, value in record.headers if name.startswith(_OURS)}
    original = Record(
        topic=ours.get(f"{PREFIX}topic", ""),
        partition=_number(ours.get(f"{PREFIX}partition")),
        offset=_number(ours.get(f"{PREFIX}offset")),
        timestamp=record.timestamp,
        key=record.key,
        value=None if ours.get(NULL_VALUE) else record.value,
        headers=tuple((name, value) for name, value in record.headers if name not in ours),
    )
    at = f"{record.partition}:{record.offset}"
    return StoredDeadLetter(at, ours.get(REASON, "unknown"), ours.get(f"{PREFIX}message", ""), original, TRUNCATED in ours)


def _nbytes(headers: tuple[tuple[str, bytes | None], ...]) -> int:
    return sum(len(name.encode(errors="replace")) + len(content or b"") + 10 for name, content in headers)


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else -1
