"""How what is remembered of entities lies in the state topic: one record for a bucket of entities, only the changed ones written.

A record each would be the most of what a busy service writes. Entities of one bucket (``crc32(entity) % BUCKETS``) come due on
the same rows, because a window's phase is ``crc32(entity) % stride``: for every stride that divides ``BUCKETS`` a bucket changes
as a whole, and nothing is written that did not change.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import msgspec

from service.errors import Stop

BUCKETS = 1000  # fixed for good: the bucket is the record's key
VERSION = 1

_encoder = msgspec.msgpack.Encoder()


class _Bucket(msgspec.Struct, frozen=True):
    """The value of a state record; each entity's part is opaque here."""

    v: int
    entities: dict[str, msgspec.Raw]


_decoder = msgspec.msgpack.Decoder(_Bucket)


def bucket_of(entity: str) -> int:
    """The bucket that an entity's memory lies in."""
    return zlib.crc32(entity.encode()) % BUCKETS


def _key(bucket: int) -> bytes:
    return b"%04d" % bucket


class StateBook:
    """The encoded memory of every entity, by partition and bucket: what the state topic holds, kept to write it again."""

    def __init__(self) -> None:
        self._books: dict[int, dict[int, dict[str, msgspec.Raw]]] = {}

    def entities(self, partition: int) -> list[str]:
        """Whoever is remembered of this partition."""
        return [entity for bucket in self._books.get(partition, {}).values() for entity in bucket]

    def change(self, partition: int, memories: Mapping[str, bytes | None]) -> dict[bytes, bytes | None]:
        """Put in what changed (None: forgotten), and give the records to write: key to value, None where a bucket emptied."""
        book = self._books.setdefault(partition, {})
        touched: set[int] = set()
        for entity, memory in memories.items():
            bucket = bucket_of(entity)
            if memory is not None:
                book.setdefault(bucket, {})[entity] = msgspec.Raw(memory)
            elif book.get(bucket, {}).pop(entity, None) is None:
                continue
            touched.add(bucket)
        records: dict[bytes, bytes | None] = {}
        for bucket in sorted(touched):
            held = book[bucket]
            records[_key(bucket)] = _encoder.encode(_Bucket(VERSION, held)) if held else None
            if not held:
                del book[bucket]
        return records

    def load(self, partition: int, records: Mapping[bytes, bytes]) -> dict[str, bytes]:
        """Replace the partition's book by what the topic holds; each entity's encoded memory.

        Raises ``Stop`` when a record cannot be read: going on without it would repeat or lose alerts.
        """
        book: dict[int, dict[str, msgspec.Raw]] = {}
        try:
            for key, value in records.items():
                bucket = _decoder.decode(value)
                if bucket.v != VERSION:
                    raise Stop(
                        f"The state of partition {partition} was written by another version of Tidewatch (format {bucket.v}).",
                        hint="Run the version that wrote it, or delete the topic kafka.topics.state to begin without memory.",
                    )
                book[int(key)] = {entity: msgspec.Raw(bytes(memory)) for entity, memory in bucket.entities.items()}
        except (msgspec.DecodeError, msgspec.ValidationError, ValueError) as error:
            raise Stop(
                f"The state of partition {partition} cannot be read: {error}.",
                hint="Delete the topic kafka.topics.state to begin without memory (open alerts are then forgotten).",
            ) from error
        self._books[partition] = book
        return {entity: bytes(memory) for bucket in book.values() for entity, memory in bucket.items()}

    def drop(self, partition: int) -> None:
        """Forget a partition; the topic keeps it."""
        self._books.pop(partition, None)
