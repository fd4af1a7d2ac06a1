"""Writes the results of a batch and the input offset to Kafka in one transaction per input partition.

Alerts, dead letters, entity state and the offset: all or nothing. After a failed transaction we may no longer own its partition.
So the partition counts as lost, its state in memory is dropped, and it is taken over again, which reads what Kafka has
(``takeover.py``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from service.domain import Alert, Rejected
from service.errors import BrokerUnavailable, ConfigError
from service.kafka_options import Commit, connect, kafka_client_options
from service.observability.logging import get_logger
from service.settings import KafkaSettings
from service.state.dead_letter import dead_letter, truncated
from service.state.producer import LARGEST_REQUEST, FencedProducer, Outgoing
from service.state.takeover import TakenOver, take_over
from service.state.topics import partitions_of, topic_configs

log = get_logger("outbox")

OVERHEAD = 512  # upper bound for the bytes that a batch and a record add

EncodeTransition = Callable[[Alert], tuple[bytes, bytes]]


class PartitionOutcome(msgspec.Struct, frozen=True):
    """The results of a batch for one input partition. ``state``: records of the state topic, None deletes the key; ``commit``: None
    while the partition is refilled."""

    alerts: Sequence[Alert] = ()
    rejected: Sequence[Rejected] = ()
    state: Mapping[bytes, bytes | None] = {}
    commit: Commit | None = None

    @property
    def empty(self) -> bool:
        """True when there is nothing to write."""
        return not (self.alerts or self.rejected or self.state) and self.commit is None


class TransactionalOutbox:
    """The outbox of a scoring process: one fenced producer per partition it owns."""

    def __init__(self, kafka: KafkaSettings, *, encode: EncodeTransition) -> None:
        """``encode``: the record (key, value) of a transition in the alerts topic."""
        self._encode = encode
        self._kafka = kafka
        self._group = f"{kafka.group_prefix}.scoring"
        self._producers: dict[int, FencedProducer] = {}
        self._dead_letter_partitions = 1
        self._state_partitions = 0
        self._largest_dead_letter = 1_000_000

    async def start(self) -> None:
        """Check the topics. Raises ``BrokerUnavailable``, or ``ConfigError`` for refused credentials and unsuitable topics."""
        topics = self._kafka.topics
        admin: Any = await connect(lambda: AIOKafkaAdminClient(**kafka_client_options(self._kafka)), self._kafka)
        try:
            existing = await admin.list_topics()
            needed = (topics.metrics, topics.alerts, topics.state, topics.dead_letter)
            missing = [topic for topic in needed if topic not in existing]
            if missing:
                raise ConfigError(f"The topic {missing[0]!r} does not exist.", hint="Run `tidewatch setup`.")
            metrics, state, dead = [
                len(one["partitions"])
                for one in sorted(
                    await admin.describe_topics([topics.metrics, topics.state, topics.dead_letter]),
                    key=lambda one: (topics.metrics, topics.state, topics.dead_letter).index(one["topic"]),
                )
            ]
            if state < metrics:
                raise ConfigError(
                    f"The topic {topics.state!r} has {state} partitions, {topics.metrics!r} has {metrics}.",
                    hint="Run `tidewatch setup`, which gives it as many: each keeps the state of one.",
                )
            self._state_partitions = state
            self._dead_letter_partitions = dead
            configs = await topic_configs(admin, topics.dead_letter)
            self._largest_dead_letter = int(configs.get("max.message.bytes", self._largest_dead_letter))
        finally:
            await admin.close()

    async def take_over(self, partitions: Collection[int]) -> dict[int, TakenOver]:
        """Fence the former owners of these partitions and read what Kafka holds of them (see ``takeover.take_over``).

        Partitions without a counterpart in the state topic are left out: somebody gave the metrics topic more while we run.
        """
        await self.release(partitions)
        topics = self._kafka.topics
        if partitions and max(partitions) >= self._state_partitions:
            self._state_partitions = await self._count_state_partitions()
        partitions = [at for at in partitions if at < self._state_partitions]
        producers = {at: FencedProducer(self._kafka, group=self._group, topic=topics.metrics, partition=at) for at in partitions}
        self._producers.update(producers)
        if not producers:
            return {}
        return await take_over(self._kafka, producers, group=self._group, topic=topics.metrics, state_topic=topics.state)

    async def _count_state_partitions(self) -> int:
        admin: Any = await connect(lambda: AIOKafkaAdminClient(**kafka_client_options(self._kafka)), self._kafka)
        try:
            return await partitions_of(admin, self._kafka.topics.state)
        except KafkaError as error:
            raise BrokerUnavailable(f"Kafka could not be asked about {self._kafka.topics.state}: {error!r}.") from error
        finally:
            await admin.close()

    async def release(self, partitions: Collection[int]) -> None:
        """Close the producers of these partitions."""
        released = [self._producers.pop(at) for at in partitions if at in self._producers]
        await asyncio.gather(*(producer.close() for producer in released))

    async def emit(self, outcomes: Mapping[int, PartitionOutcome]) -> set[int]:
        """Run one transaction per partition, concurrently; the partitions whose transaction failed, which must be taken over again.

        Bounded in time. Raises ``ConfigError`` when Kafka denies writing.
        """
        written = {at: outcome for at, outcome in outcomes.items() if not outcome.empty}
        results = await asyncio.gather(*(self._emit(at, outcome) for at, outcome in written.items()), return_exceptions=True)
        lost = set()
        for at, result in zip(written, results, strict=True):
            if isinstance(result, BrokerUnavailable):
                log.warning("a batch was not committed; its partition is taken over again", partition=at, error=str(result))
                lost.add(at)
            elif isinstance(result, BaseException):
                raise result
        return lost

    async def _emit(self, partition: int, outcome: PartitionOutcome) -> None:
        topics = self._kafka.topics
        outgoing = [Outgoing(topics.alerts, 0, *self._encode(alert)) for alert in outcome.alerts]
        outgoing += [self._dead_letter(item) for item in outcome.rejected]
        outgoing += [Outgoing(topics.state, partition, key, value) for key, value in outcome.state.items()]
        await self._producers[partition].commit(outgoing, outcome.commit)

    async def close(self) -> None:
        """Disconnect; everything emitted was committed already."""
        await self.release(list(self._producers))

    def _dead_letter(self, rejected: Rejected) -> Outgoing:
        letter = dead_letter(rejected)
        limit = min(self._largest_dead_letter, LARGEST_REQUEST) - OVERHEAD
        if letter.nbytes > limit:
            letter = truncated(letter, limit)
        partition = max(rejected.record.partition, 0) % self._dead_letter_partitions
        return Outgoing(self._kafka.topics.dead_letter, partition, letter.key, letter.value, letter.headers)
