"""What aiokafka does with a record that it cannot read, made to cost that record only.

aiokafka decodes names of headers as UTF-8 and raises what that raises out of ``getmany``, for ever: the position stays before the
record, and records of other partitions drained in the same call are lost. A producer needs one header to do that. So every batch
is read by aiokafka's compiled reader, and one that it fails on is read again here, record by record: names that are not UTF-8 get
replacement characters, and a record whose structure is broken is stepped over, counted and logged.

``install`` replaces two names in aiokafka's fetcher, for every consumer of the process; ``tests/test_kafka_records.py`` fails when
a new version of aiokafka goes past them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy, _DefaultRecordPy
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import decode_varint

from service.observability.logging import get_logger
from service.observability.metrics import UNREADABLE

log = get_logger("kafka")

_LENGTH = struct.Struct(">8xi")  # of a batch, behind its base offset
_MAGIC_AT = 16


def install() -> None:
    """Read through the guards below from now on; again changes nothing."""
    fetcher.MemoryRecords = _GuardedRecords
    fetcher.PartitionRecords = _GuardedPartition


class _GuardedPartition(fetcher.PartitionRecords):  # type: ignore[misc]  # aiokafka has no types
    """Tells the batches where they come from."""

    def __init__(self, tp: Any, records: Any, *further: Any) -> None:
        records.source = tp
        super().__init__(tp, records, *further)


class _GuardedRecords:
    """The batches of a fetch, each with its bytes."""

    source: Any = None

    def __init__(self, data: bytes) -> None:
        self._batches: Any = MemoryRecords(data)
        self._left = memoryview(data)

    def has_next(self) -> bool:
        return bool(self._batches.has_next())

    def size_in_bytes(self) -> int:
        return int(self._batches.size_in_bytes())

    def next_batch(self) -> _GuardedBatch:
        end = _LENGTH.size + _LENGTH.unpack_from(self._left)[0]
        raw, self._left = self._left[:end], self._left[end:]
        return _GuardedBatch(self._batches.next_batch(), raw, self.source)


class _GuardedBatch:
    def __init__(self, batch: Any, raw: memoryview, source: Any) -> None:
        self._batch, self._raw, self._source = batch, raw, source

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        return next(self._batch)  # only control batches, which a broker writes

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self._batch
        except Exception as error:  # noqa: BLE001 - whatever a record raises costs that record
            yield from self._one_by_one(error)  # those yielded before are skipped by their offset

    def _one_by_one(self, error: Exception) -> Iterator[Any]:
        first, behind = self._batch.base_offset, self._batch.next_offset
        if self._raw[_MAGIC_AT] < 2:
            self._step_over(first, behind, error)
            return
        batch = _DefaultRecordBatchPy(self._raw)
        try:
            batch._maybe_uncompress()
        except Exception as failed:  # noqa: BLE001 - as above
            self._step_over(first, behind, failed)
            return
        at, buffer = batch._pos, batch._buffer
        for number in range(batch._num_records):
            offset = first + number  # where the record does not say it
            try:
                length, start = decode_varint(buffer, at)
                at = start + length
                if length < 0 or at > len(buffer):
                    raise ValueError("a record reaches beyond its batch")
            except Exception as failed:  # noqa: BLE001 - as above; without a length the next record is not found either
                self._step_over(offset, behind, failed)
                return
            try:
                yield _record(batch, buffer[start:at])
            except Exception as failed:  # noqa: BLE001 - as above
                self._step_over(offset, offset + 1, failed)

    def _step_over(self, first: int, behind: int, error: Exception) -> None:
        topic, partition = self._source or ("", -1)
        UNREADABLE.labels(topic).inc(max(1, behind - first))
        log.warning(
            "records that the Kafka client cannot read are stepped over",
            topic=topic, partition=partition, offset=first, records=behind - first, why=repr(error)[:200],
        )  # fmt: skip


def _record(batch: Any, buffer: bytearray) -> Any:
    """One record of a batch, as ``_DefaultRecordBatchPy._read_msg`` reads it; its bytes begin behind the length."""
    delta, at = decode_varint(buffer, 1)  # behind the attributes, which say nothing
    offset_delta, at = decode_varint(buffer, at)
    key, at = _bytes(buffer, at)
    value, at = _bytes(buffer, at)
    count, at = decode_varint(buffer, at)
    headers = []
    for _ in range(count):
        name, at = _bytes(buffer, at)
        content, at = _bytes(buffer, at)
        headers.append(((name or b"").decode(errors="replace"), content))
    if at != len(buffer) or count < 0:
        raise ValueError("a record is not as long as it says")
    appended = batch.timestamp_type == batch.LOG_APPEND_TIME
    timestamp = batch.max_timestamp if appended else batch.first_timestamp + delta
    return _DefaultRecordPy(batch.base_offset + offset_delta, timestamp, batch.timestamp_type, key, value, headers)


def _bytes(buffer: bytearray, at: int) -> tuple[bytes | None, int]:
    length, at = decode_varint(buffer, at)
    if length < 0:
        return None, at
    if at + length > len(buffer):
        raise ValueError("a part of a record is longer than the record")
    return bytes(buffer[at : at + length]), at + length
