"""Reads a range of a topic once, up to its present end: for training, and for listing dead letters."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from service.domain import Record
from service.errors import ConfigError
from service.kafka_options import connect, kafka_client_options
from service.settings import KafkaSettings

POLL_MS = 200


async def require_topic(kafka: KafkaSettings, topic: str) -> list[Any]:
    """The topic's partitions. Raises ``ConfigError`` when it does not exist, ``BrokerUnavailable`` when nothing answers."""
    admin = await connect(lambda: AIOKafkaAdminClient(**kafka_client_options(kafka)), kafka)
    try:
        if topic not in await admin.list_topics():
            raise ConfigError(
                f"The topic {topic!r} does not exist.", hint="Run `tidewatch setup`, or check kafka.topics in the settings."
            )
        described = await admin.describe_topics([topic])
    finally:
        await admin.close()
    return [TopicPartition(topic, at) for at in sorted(part["partition"] for part in described[0]["partitions"])]


async def read_range(
    kafka: KafkaSettings, topic: str, *, since_ms: int | None, last_records: int | None
) -> AsyncIterator[list[Record]]:
    """The records of all partitions from ``since_ms`` (record time) on, or the last ones, up to the present end of the topic.

    At most ``last_records`` of them, an equal share per partition. Raises ``BrokerUnavailable`` or ``ConfigError``.
    """
    partitions = await require_topic(kafka, topic)
    options = kafka_client_options(kafka)
    consumer: Any = await connect(lambda: AIOKafkaConsumer(isolation_level="read_committed", **options), kafka)
    try:
        consumer.assign(partitions)
        first, end = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
        begin = dict(first)
        if since_ms is not None:
            found = await consumer.offsets_for_times(dict.fromkeys(partitions, since_ms))
            begin = {tp: end[tp] if found[tp] is None else found[tp].offset for tp in partitions}
        if last_records is not None:
            share = -(-last_records // len(partitions))
            begin = {tp: max(begin[tp], end[tp] - share) for tp in partitions}
        for tp in partitions:
            consumer.seek(tp, begin[tp])
        wanted = [tp for tp in partitions if begin[tp] < end[tp]]
        while wanted:
            fetched = await consumer.getmany(*wanted, timeout_ms=POLL_MS, max_records=10_000)
            yield [_record(message) for tp, messages in fetched.items() for message in messages if message.offset < end[tp]]
            wanted = [tp for tp in wanted if await consumer.position(tp) < end[tp]]
    finally:
        await consumer.stop()


def _record(message: Any) -> Record:
    headers = tuple(message.headers) if message.headers else ()
    return Record(message.topic, message.partition, message.offset, message.timestamp, message.key, message.value, headers)
