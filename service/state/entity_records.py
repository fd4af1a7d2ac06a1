"""How what is remembered of entities lies in the state topic: few records for a bucket of entities, only the changed ones written.

A record each would be the most of what a busy service writes. Entities of one bucket (``crc32(entity) % BUCKETS``) come due on
the same rows, because a window's phase is ``crc32(entity) % stride``: for every stride that divides ``BUCKETS`` a bucket changes
as a whole, and nothing is written that did not change.

Anybody who may write metrics can choose names that all fall into one bucket. So a bucket is kept on pages of at most
``PAGE_BYTES``, one record each: Kafka takes every record, and a change rewrites one page.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import msgspec

from service.errors import Stop

BUCKETS = 100_000  # fixed for good: the record's key begins with the bucket
VERSION = 2
PAGE_BYTES = 256 << 10  # of the entities' memories on one page; one larger than that has a page to itself

_encoder = msgspec.msgpack.Encoder()


class _Bucket(msgspec.Struct, frozen=True):
    """The value of a state record; each entity's part is opaque here."""

    v: int
    entities: dict[str, msgspec.Raw]


_decoder = msgspec.msgpack.Decoder(_Bucket)


def bucket_of(entity: str) -> int:
    """The bucket that an entity's memory lies in."""
    return zlib.crc32(entity.encode()) % BUCKETS


Place = tuple[int, int]  # bucket, number of the page within the bucket


def _key(place: Place) -> bytes:
    bucket, number = place
    return b"%05d-%d" % place if number else b"%05d" % bucket


def _place(key: bytes) -> Place:
    bucket, _, number = key.partition(b"-")
    return int(bucket), int(number or 0)


class _Page(msgspec.Struct, eq=False, gc=False):
    """What one record holds: each entity's memory, and how many bytes they come to with the names."""

    place: Place
    held: dict[str, msgspec.Raw] = {}
    bytes: int = 0


class _Book:
    """One partition's pages, and which page each entity is on."""

    def __init__(self) -> None:
        self.pages: dict[Place, _Page] = {}
        self.page_of: dict[str, _Page] = {}

    def replace(self, entity: str, memory: bytes) -> _Page | None:
        """Put a new memory in place of the former where it lies; None where there is none, or the page has no room for it."""
        page = self.page_of.get(entity)
        if page is None:
            return None
        size = page.bytes + len(memory) - len(memoryview(page.held[entity]))
        if size > PAGE_BYTES and len(page.held) > 1:
            return None
        page.held[entity], page.bytes = msgspec.Raw(memory), size
        return page

    def put(self, place: Place, entity: str, memory: bytes) -> _Page:
        """Put a memory that is on no page on this one; the page."""
        page = self.pages.get(place)
        if page is None:
            page = self.pages[place] = _Page(place)
        page.held[entity] = msgspec.Raw(memory)
        page.bytes += len(entity) + len(memory)
        self.page_of[entity] = page
        return page

    def take(self, entity: str) -> _Page | None:
        """Remove it; the page it was on."""
        page = self.page_of.pop(entity, None)
        if page is not None:
            page.bytes -= len(entity) + len(memoryview(page.held.pop(entity)))
        return page

    def place_for(self, entity: str, memory: bytes) -> Place:
        """Where one that is on no page has room: the first page with room; a new one at last."""
        bucket, size, number = bucket_of(entity), len(entity) + len(memory), 0
        while (page := self.pages.get((bucket, number))) is not None and page.bytes and page.bytes + size > PAGE_BYTES:
            number += 1
        return bucket, number


class StateBook:
    """The encoded memory of every entity, by partition and page: what the state topic holds, kept to write it again."""

    def __init__(self) -> None:
        self._books: dict[int, _Book] = {}

    def entities(self, partition: int) -> list[str]:
        """Whoever is remembered of this partition."""
        return list(self._books[partition].page_of) if partition in self._books else []

    def change(self, partition: int, memories: Mapping[str, bytes | None]) -> dict[bytes, bytes | None]:
        """Put in what changed (None: forgotten), and give the records to write: key to value, None where a bucket emptied."""
        book = self._books.setdefault(partition, _Book())
        touched: dict[_Page, None] = {}  # in order
        for entity, memory in memories.items():
            if memory is not None and (stays := book.replace(entity, memory)) is not None:
                touched[stays] = None
                continue
            before = book.take(entity)
            if before is not None:
                touched[before] = None
            if memory is not None:
                touched[book.put(book.place_for(entity, memory), entity, memory)] = None
        records: dict[bytes, bytes | None] = {}
        for page in touched:
            records[_key(page.place)] = _encoder.encode(_Bucket(VERSION, page.held)) if page.held else None
            if not page.held:
                del book.pages[page.place]
        return records

    def load(self, partition: int, records: Mapping[bytes, bytes]) -> dict[str, bytes]:
        """Replace the partition's book by what the topic holds; each entity's encoded memory.

        Raises ``Stop`` when a record cannot be read: going on without it would repeat or lose alerts.
        """
        book = _Book()
        try:
            for key, value in records.items():
                bucket = _decoder.decode(value)
                if bucket.v != VERSION:
                    raise Stop(
                        f"The state of partition {partition} was written by another version of Tidewatch (format {bucket.v}).",
                        hint="Run the version that wrote it, or delete the topic kafka.topics.state to begin without memory.",
                    )
                for entity, memory in bucket.entities.items():
                    book.put(_place(key), entity, bytes(memory))
        except (msgspec.DecodeError, msgspec.ValidationError, ValueError) as error:
            raise Stop(
                f"The state of partition {partition} cannot be read: {error}.",
                hint="Delete the topic kafka.topics.state to begin without memory (open alerts are then forgotten).",
            ) from error
        self._books[partition] = book
        return {entity: bytes(memory) for page in book.pages.values() for entity, memory in page.held.items()}

    def drop(self, partition: int) -> None:
        """Forget a partition; the topic keeps it."""
        self._books.pop(partition, None)
