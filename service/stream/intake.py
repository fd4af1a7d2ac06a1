"""From records to due windows, in one thread of its own: the event loop stays free for heartbeats, and the batch before is scored
meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import msgspec

from service.domain import Record, Rejected, Sample, WindowBatch
from service.kafka_options import Commit
from service.observability.logging import get_logger
from service.sources.base import Codec, RecordBatch
from service.stream.models import Model, Models

Result = TypeVar("Result")

log = get_logger("intake")


class IntakeResult(msgspec.Struct, frozen=True):
    """The result of one batch: windows that came due, rejected records, the commit of each partition, and the entities that expired
    (model, partition, entity).

    It holds no reference to the windows, which the next batch may already change.
    """

    due: list[tuple[Model, WindowBatch]]
    rejected: list[Rejected]
    commits: dict[int, Commit]
    expired: list[tuple[Model, int, str]]


class Intake:
    """Decodes records and feeds them to the windows, one batch after the other."""

    def __init__(self, codec: Codec, models: Models) -> None:
        self._codec = codec
        self._models = models
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="intake")

    async def process(self, batch: RecordBatch) -> IntakeResult:
        """Decode and feed a batch. Must not overlap ``release`` or a refill; the caller serialises them."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._process, batch)

    async def run_between_batches(self, function: Callable[..., Result], *arguments: object) -> Result:
        """Call ``function`` in the intake's thread, where no batch is being processed."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    def close(self) -> None:
        """Stop the thread, after what it is working on."""
        self._thread.shutdown(wait=False)

    def _process(self, batch: RecordBatch) -> IntakeResult:
        samples, rejected = self._decode(batch.records)
        due: list[tuple[Model, WindowBatch]] = []
        for model, part in self._models.split(samples):
            windows, refused = model.processor.add(part, batch.resume_at)
            due += [(model, window) for window in windows]
            rejected += refused
        new = [item for item in rejected if _is_new(item, batch)]
        expired = [(model, *one) for model in self._models.all for one in model.processor.take_expired()]
        return IntakeResult(due, new, self._commits(batch), expired)

    def _decode(self, records: Sequence[Record]) -> tuple[Sequence[Sample], list[Rejected]]:
        """A codec never raises; should it do so, the record at fault is found and refused."""
        try:
            return self._codec.decode(records)
        except Exception as error:
            if len(records) > 1:
                (first, refused), (second, also) = (
                    self._decode(records[: len(records) // 2]),
                    self._decode(records[len(records) // 2 :]),
                )
                return [*first, *second], [*refused, *also]
            log.exception("a record cannot be decoded", partition=records[0].partition, offset=records[0].offset)
            return [], [Rejected(records[0], "undecodable", f"The record cannot be decoded: {error!r}.")]

    def _commits(self, batch: RecordBatch) -> dict[int, Commit]:
        """By partition: the next offset, and the oldest one that windows still need; left out while the partition is refilled."""
        next_offset: dict[int, int] = {record.partition: record.offset + 1 for record in batch.records}
        commits = {}
        for partition, offset in next_offset.items():
            if offset > batch.resume_at[partition]:
                needed = [model.processor.oldest_offset(partition) for model in self._models.all]
                commits[partition] = Commit(offset, min((one for one in needed if one is not None), default=None))
        return commits


def _is_new(item: Rejected, batch: RecordBatch) -> bool:
    """False for a record that only refilled windows: it was dead-lettered when it was first read."""
    return item.record.offset >= batch.resume_at.get(item.record.partition, 0)
