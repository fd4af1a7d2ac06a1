"""The records of the state topic: the state of many entities shares a record (a page), and only changed pages are written.

One record per entity would be most of what a busy service writes. So entities are grouped into buckets, ``crc32(entity) %
BUCKETS``. Their windows come due on the same rows, because a window's phase is ``crc32(entity) % stride``: for every stride that
divides ``BUCKETS`` a bucket changes as a whole, and nothing unchanged is written.

A producer can choose names that all fall into one bucket. So a bucket is split into pages of at most ``PAGE_BYTES``, one record
each: no record is too large for Kafka, and a change rewrites one page.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import msgspec

from service.errors import Stop

BUCKETS = 100_000  # never to be changed: stored keys begin with the bucket
VERSION = 2
PAGE_BYTES = 256 << 10  # of entities' states on one page; a larger state has a page of its own

_encoder = msgspec.msgpack.Encoder()


class _Bucket(msgspec.Struct, frozen=True):
    """The value of a record; each entity's state is opaque here."""

    v: int
    entities: dict[str, msgspec.Raw]


_decoder = msgspec.msgpack.Decoder(_Bucket)


def bucket_of(entity: str) -> int:
    """The bucket of an entity."""
    return zlib.crc32(entity.encode()) % BUCKETS


Place = tuple[int, int]  # bucket, number of the page within the bucket


def _key(place: Place) -> bytes:
    bucket, number = place
    return b"%05d-%d" % place if number else b"%05d" % bucket


def _place(key: bytes) -> Place:
    bucket, _, number = key.partition(b"-")
    return int(bucket), int(number or 0)


class _Page(msgspec.Struct, eq=False, gc=False):
    """The content of one record: the states by entity, and their size in bytes with the names."""

    place: Place
    held: dict[str, msgspec.Raw] = {}
    bytes: int = 0


class _Pages:
    """The pages of one partition, and the page of each entity."""

    def __init__(self) -> None:
        self.pages: dict[Place, _Page] = {}
        self.page_of: dict[str, _Page] = {}

    def replace(self, entity: str, state: bytes) -> _Page | None:
        """Replace the state of an entity on its page; None where it has no page, or the page has no room."""
        page = self.page_of.get(entity)
        if page is None:
            return None
        size = page.bytes + len(state) - len(memoryview(page.held[entity]))
        if size > PAGE_BYTES and len(page.held) > 1:
            return None
        page.held[entity], page.bytes = msgspec.Raw(state), size
        return page

    def put(self, place: Place, entity: str, state: bytes) -> _Page:
        """Add an entity that is on no page to this one; the page."""
        page = self.pages.get(place)
        if page is None:
            page = self.pages[place] = _Page(place)
        page.held[entity] = msgspec.Raw(state)
        page.bytes += len(entity) + len(state)
        self.page_of[entity] = page
        return page

    def remove(self, entity: str) -> _Page | None:
        """Remove an entity; the page it was on."""
        page = self.page_of.pop(entity, None)
        if page is not None:
            page.bytes -= len(entity) + len(memoryview(page.held.pop(entity)))
        return page

    def place_for(self, entity: str, state: bytes) -> Place:
        """The first page of its bucket with room for the entity, or a new one."""
        bucket, size, number = bucket_of(entity), len(entity) + len(state), 0
        while (page := self.pages.get((bucket, number))) is not None and page.bytes and page.bytes + size > PAGE_BYTES:
            number += 1
        return bucket, number


class EntityRecords:
    """The encoded state of every entity by partition and page, as the state topic has it."""

    def __init__(self) -> None:
        self._partitions: dict[int, _Pages] = {}

    def entities(self, partition: int) -> list[str]:
        """The entities with a state in this partition."""
        return list(self._partitions[partition].page_of) if partition in self._partitions else []

    def change(self, partition: int, states: Mapping[str, bytes | None]) -> dict[bytes, bytes | None]:
        """Apply changed states (None: expired); the records to write, key to value, None where a page became empty."""
        pages = self._partitions.setdefault(partition, _Pages())
        touched: dict[_Page, None] = {}  # in order
        for entity, state in states.items():
            if state is not None and (stays := pages.replace(entity, state)) is not None:
                touched[stays] = None
                continue
            before = pages.remove(entity)
            if before is not None:
                touched[before] = None
            if state is not None:
                touched[pages.put(pages.place_for(entity, state), entity, state)] = None
        records: dict[bytes, bytes | None] = {}
        for page in touched:
            records[_key(page.place)] = _encoder.encode(_Bucket(VERSION, page.held)) if page.held else None
            if not page.held:
                del pages.pages[page.place]
        return records

    def load(self, partition: int, records: Mapping[bytes, bytes]) -> dict[str, bytes]:
        """Replace the partition's pages by the topic's records; the encoded state of each entity.

        Raises ``Stop`` when a record cannot be read: going on without it would repeat or lose alerts.
        """
        pages = _Pages()
        try:
            for key, value in records.items():
                bucket = _decoder.decode(value)
                if bucket.v != VERSION:
                    raise Stop(
                        f"The state of partition {partition} was written by another version of Tidewatch (format {bucket.v}).",
                        hint="Run the version that wrote it, or delete the topic kafka.topics.state; open alerts are then lost.",
                    )
                for entity, state in bucket.entities.items():
                    pages.put(_place(key), entity, bytes(state))
        except (msgspec.DecodeError, msgspec.ValidationError, ValueError) as error:
            raise Stop(
                f"The state of partition {partition} cannot be read: {error}.",
                hint="Delete the topic kafka.topics.state to start without state; open alerts are then lost.",
            ) from error
        self._partitions[partition] = pages
        return {entity: bytes(state) for page in pages.pages.values() for entity, state in page.held.items()}

    def drop(self, partition: int) -> None:
        """Drop a partition here; its records stay in the topic."""
        self._partitions.pop(partition, None)
