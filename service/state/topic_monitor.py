"""Looks at the metrics topic from outside: how far the scoring group is behind, what was refused, whether anything arrives; and
hears what the scoring workers report of the data they see (``health_topic.py``)."""

from __future__ import annotations

from collections import Counter
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from service.clock import Clock
from service.domain import DataSnapshot
from service.errors import BrokerUnavailable, ConfigError
from service.kafka_options import connect, disconnect, kafka_client_options
from service.settings import DataHealthSettings, KafkaSettings
from service.state.dead_letter import PREFIX, REASON
from service.state.health_topic import LatestReports, read_report
from service.state.takeover import committed

BELIEVED_FOR = 3  # looks; an older report has no owner, or one that cannot write


class TopicMonitor:
    """One look after the other; each tells of the time since the one before. The first one knows of nothing read or refused."""

    def __init__(self, kafka: KafkaSettings, settings: DataHealthSettings, *, clock: Clock) -> None:
        self._kafka = kafka
        self._hears = bool(settings.reported)
        self._heard = LatestReports(clock=clock, believed_ms=round(settings.check_every_seconds * BELIEVED_FOR * 1000))
        self._clock = clock
        self._old_reports = 0  # the first offset of those that came after we did
        self._consumer: Any = None
        self._read: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        self._arrived_at = clock.now_ms()

    async def look(self) -> DataSnapshot:
        """Ask Kafka. Raises ``BrokerUnavailable`` or ``ConfigError``."""
        topics = self._kafka.topics
        try:
            metrics, letters, *reports = await self._partitions(
                topics.metrics, topics.dead_letter, *([topics.health] if self._hears else [])
            )
            if self._consumer is None:
                await self._start(letters, [tp for some in reports for tp in some])
            consumer = self._consumer
            group = f"{self._kafka.group_prefix}.scoring"
            commits = await committed(self._kafka, group, topics.metrics, [tp.partition for tp in metrics])
            ends = {tp.partition: end for tp, end in (await consumer.end_offsets(metrics)).items()}
            first = {tp.partition: begin for tp, begin in (await consumer.beginning_offsets(metrics)).items()}
            rejected = await self._read_on(topics.metrics)
        except (KafkaError, OSError, TimeoutError) as error:
            await self.close()
            raise BrokerUnavailable(f"Kafka could not be asked about {topics.metrics}: {error!r}.") from error
        at = {one: commits[one].offset if one in commits else first[one] for one in ends}
        now = self._clock.now_ms()
        if not self._ends or ends != self._ends:
            self._arrived_at = now
        read = sum(max(0, offset - self._read[one]) for one, offset in at.items() if one in self._read)
        self._read, self._ends = at, ends
        lag = {one: max(0, end - max(at[one], first[one])) for one, end in ends.items()}
        taken, late = self._heard.counts()
        return DataSnapshot(
            lag=lag,
            read=read,
            rejected=rejected,
            quiet_ms=now - self._arrived_at,
            reports=self._heard.believed(),
            taken=taken,
            late=late,
        )

    async def close(self) -> None:
        """Disconnect; the next look connects anew."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await disconnect(consumer.stop())

    async def _start(self, letters: list[TopicPartition], reports: list[TopicPartition]) -> None:
        self._consumer = await connect(
            lambda: AIOKafkaConsumer(isolation_level="read_committed", **kafka_client_options(self._kafka)), self._kafka
        )
        self._consumer.assign([*letters, *reports])
        await self._consumer.seek_to_end(*letters)
        if reports:
            await self._consumer.seek_to_beginning(*reports)
            self._old_reports = max((await self._consumer.end_offsets(reports)).values())

    async def _partitions(self, *topics: str) -> list[list[TopicPartition]]:
        admin: Any = await connect(lambda: AIOKafkaAdminClient(**kafka_client_options(self._kafka)), self._kafka)
        try:
            described = {one["topic"]: one["partitions"] for one in await admin.describe_topics(list(topics))}
        finally:
            await admin.close()
        for topic in topics:
            if not described.get(topic):
                raise ConfigError(f"The topic {topic!r} does not exist.", hint="Run `tidewatch setup`.")
        return [[TopicPartition(topic, part["partition"]) for part in described[topic]] for topic in topics]

    async def _read_on(self, topic: str) -> dict[str, int]:
        """Hear the reports, and count the dead letters of the metrics topic, written since the last look, by reason."""
        found: Counter[str] = Counter()
        consumer = self._consumer
        ends = await consumer.end_offsets(list(consumer.assignment()))
        while any([await consumer.position(tp) < end for tp, end in ends.items()]):
            fetched = await consumer.getmany(timeout_ms=200)
            for message in (message for messages in fetched.values() for message in messages):
                if message.topic == self._kafka.topics.health:
                    if (report := read_report(message.value, topic)) is not None:
                        self._heard.hear(report, was_there=message.offset < self._old_reports)
                    continue
                told = {name: value.decode("utf-8", "replace") for name, value in message.headers}
                if told.get(f"{PREFIX}topic") == topic:
                    found[told.get(REASON, "unknown")] += 1
        return dict(found)
