"""What the Kafka tests of this room share: settings with topics of their own, messages, and a worker without detectors."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Collection, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from service.alerts.topics.transitions import encode_transition
from service.domain import Record, Rejected, Schema, WindowBatch
from service.kafka_options import Commit
from service.settings import Settings, StreamSettings
from service.sources.codecs.message import encode
from service.sources.codecs.native import NativeCodec
from service.sources.kafka import KafkaSource
from service.sources.publisher import MetricsMessage
from service.state.transactions import PartitionOutcome, TransactionalOutbox
from service.stream.processor import StreamProcessor

SCHEMA = Schema(("cpu", "mem"), 1000)
T0 = 1_763_769_600_000  # a whole number of seconds, in the past


def kafka_settings(servers: str, *, partitions: int = 2, stream: StreamSettings | None = None, **kafka: Any) -> Settings:
    """Settings whose topics and group no other test has."""
    tag = uuid.uuid4().hex[:8]
    topics = {
        "metrics": f"metrics-{tag}",
        "alerts": f"alerts-{tag}",
        "control": f"control-{tag}",
        "state": f"state-{tag}",
        "notify_state": f"notify-state-{tag}",
        "notifications": f"notifications-{tag}",
        "health": f"health-{tag}",
        "dead_letter": f"dead-{tag}",
        "partitions": partitions,
    }
    told = {
        "bootstrap_servers": servers,
        "group_prefix": f"tidewatch-{tag}",
        "session_timeout_seconds": 6.0,
        "topics": topics,
        **kafka,
    }
    return Settings(kafka=told, stream=stream or StreamSettings())


def message(entity: str, row: int, *values: float) -> MetricsMessage:
    """A message of the rig's schema at a grid row after ``T0``."""
    told = dict(zip(SCHEMA.metrics, values or (float(row), float(-row)), strict=True))
    return MetricsMessage(entity, encode(entity, T0 + row * SCHEMA.interval_ms, told))


async def send_raw(servers: str, topic: str, records: Collection[tuple[bytes | None, bytes | None]], partition: int = 0) -> None:
    """Write bytes as they are."""
    producer: Any = AIOKafkaProducer(bootstrap_servers=servers, max_request_size=32 << 20, max_batch_size=32 << 20)
    await producer.start()
    try:
        for key, value in records:
            batch = producer.create_batch()  # which, unlike send, takes a record without key and value
            assert batch.append(key=key, value=value, timestamp=None) is not None
            await (await producer.send_batch(batch, topic, partition=partition))
    finally:
        await producer.stop()


async def read_all(servers: str, topic: str) -> list[Record]:
    """Every record of a topic, by partition and offset."""
    consumer: Any = AIOKafkaConsumer(bootstrap_servers=servers, max_partition_fetch_bytes=32 << 20)
    await consumer.start()
    try:
        await consumer._client.force_metadata_update()
        await consumer._client._wait_on_metadata(topic)
        tps = [TopicPartition(topic, at) for at in sorted(consumer.partitions_for_topic(topic))]
        end = await consumer.end_offsets(tps)
        consumer.assign(tps)
        await consumer.seek_to_beginning(*tps)
        found: list[Record] = []
        for tp in tps:
            while await consumer.position(tp) < end[tp]:
                fetched = (await consumer.getmany(tp, timeout_ms=200)).get(tp, [])
                found += [Record(m.topic, m.partition, m.offset, m.timestamp, m.key, m.value, tuple(m.headers)) for m in fetched]
        return found
    finally:
        await consumer.stop()


class Worker:
    """Source, codec, windows and outbox as the scoring part wires them; what comes due is kept instead of scored."""

    def __init__(self, settings: Settings, *, window: int = 5, stride: int = 1) -> None:
        self.due: list[tuple[str, int]] = []  # entity, end row after T0
        self.consumed = 0
        self.refilled = 0
        self.batches = 0
        self.dropped: list[int] = []
        self.processor = StreamProcessor(SCHEMA, window=window, stride=stride, settings=settings.stream)
        self.codec = NativeCodec(lambda _: SCHEMA, settings.stream)
        self.source = KafkaSource(settings)
        self.outbox = TransactionalOutbox(settings.kafka, encode=encode_transition)
        self.windows: list[WindowBatch] = []
        self.before_emit: Callable[[], Any] | None = None
        self._task: asyncio.Task[None] | None = None

    async def take_over(self, partitions: Collection[int]) -> Mapping[int, Commit | None]:
        return {at: found.commit for at, found in (await self.outbox.take_over(partitions)).items()}

    async def release(self, partitions: Collection[int]) -> None:
        self.dropped += partitions
        await self.outbox.release(partitions)
        self.processor.drop_partitions(partitions)

    async def start(self) -> Worker:
        await self.outbox.start()
        await self.source.start()
        self._task = asyncio.create_task(self._run())
        return self

    async def _run(self) -> None:
        async for batch in self.source.batches(self):
            samples, undecodable = self.codec.decode(batch.records)
            due, unusable = self.processor.add(samples, batch.resume_at)
            new: list[Rejected] = [
                item for item in (*undecodable, *unusable) if item.record.offset >= batch.resume_at[item.record.partition]
            ]
            behind = {record.partition: record.offset + 1 for record in batch.records}
            if self.before_emit is not None and batch.records:
                await self.before_emit()
            lost = await self.outbox.emit(
                {
                    at: PartitionOutcome(
                        rejected=[item for item in new if item.record.partition == at],
                        commit=Commit(offset, self.processor.oldest_offset(at)) if offset > batch.resume_at[at] else None,
                    )
                    for at, offset in behind.items()
                }
            )
            self.source.mark_lost(lost)
            for part in due:
                self.windows.append(part)
                columns = zip(part.entities, part.end_rows, part.partitions.tolist(), strict=True)
                self.due += [(entity, int(row) - T0 // 1000) for entity, row, at in columns if at not in lost]
            self.refilled += sum(record.offset < batch.resume_at[record.partition] for record in batch.records)
            self.consumed += len(batch.records)
            self.batches += 1
            self.source.batch_done()

    async def until(self, reached: Callable[[], bool], seconds: float = 30.0) -> None:
        """Wait for something to have happened; fails with what the worker failed with."""
        assert self._task is not None
        async with asyncio.timeout(seconds):
            while not reached():
                if self._task.done():
                    self._task.result()
                    raise AssertionError("the worker ended")
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """As on SIGTERM."""
        self.source.request_stop()
        if self._task is not None:
            await self._task
        await self.source.close()
        await self.outbox.close()

    async def kill(self) -> None:
        """Without committing or leaving: the task ends where it is, and the connections with it."""
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self.source.close()
        await self.outbox.close()
