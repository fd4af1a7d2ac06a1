"""Observes the metrics topic for data health: the lag of the scoring group, dead letters by reason, whether anything arrives, and
the reports of the scoring processes (``health_topic.py``)."""

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
from service.state.takeover import read_commits

REPORT_VALID_FOR = 3  # intervals; the owner of an older report is gone, or cannot write


class TopicMonitor:
    """Each ``look`` covers the time since the one before; the first one reports nothing as read or rejected."""

    def __init__(self, kafka: KafkaSettings, settings: DataHealthSettings, *, clock: Clock) -> None:
        self._kafka = kafka
        self._with_reports = bool(settings.reported)
        self._reports = LatestReports(clock=clock, max_age_ms=round(settings.check_every_seconds * REPORT_VALID_FOR * 1000))
        self._clock = clock
        self._first_new_report = 0  # the first offset behind the reports that were there before us
        self._consumer: Any = None
        self._position: dict[int, int] = {}  # committed, by partition
        self._ends: dict[int, int] = {}
        self._arrived_at = clock.now_ms()

    async def look(self) -> DataSnapshot:
        """Query Kafka. Raises ``BrokerUnavailable`` or ``ConfigError``."""
        topics = self._kafka.topics
        try:
            metrics, dead_letters, *reports = await self._partitions(
                topics.metrics, topics.dead_letter, *([topics.health] if self._with_reports else [])
            )
            if self._consumer is None:
                await self._start(dead_letters, [tp for partitions in reports for tp in partitions])
            consumer = self._consumer
            group = f"{self._kafka.group_prefix}.scoring"
            commits = await read_commits(self._kafka, group, topics.metrics, [tp.partition for tp in metrics])
            ends = {tp.partition: end for tp, end in (await consumer.end_offsets(metrics)).items()}
            first = {tp.partition: begin for tp, begin in (await consumer.beginning_offsets(metrics)).items()}
            rejected = await self._read_on(topics.metrics)
        except (KafkaError, OSError, TimeoutError) as error:
            await self.close()
            raise BrokerUnavailable(f"Kafka could not be asked about {topics.metrics}: {error!r}.") from error
        position = {at: commits[at].offset if at in commits else first[at] for at in ends}
        now = self._clock.now_ms()
        if not self._ends or ends != self._ends:
            self._arrived_at = now
        read = sum(max(0, offset - self._position[at]) for at, offset in position.items() if at in self._position)
        self._position, self._ends = position, ends
        lag = {at: max(0, end - max(position[at], first[at])) for at, end in ends.items()}
        taken, late = self._reports.counts()
        return DataSnapshot(
            lag=lag,
            read=read,
            rejected=rejected,
            quiet_ms=now - self._arrived_at,
            reports=self._reports.valid(),
            taken=taken,
            late=late,
        )

    async def close(self) -> None:
        """Disconnect; the next look connects anew."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await disconnect(consumer.stop())

    async def _start(self, dead_letters: list[TopicPartition], reports: list[TopicPartition]) -> None:
        self._consumer = await connect(
            lambda: AIOKafkaConsumer(isolation_level="read_committed", **kafka_client_options(self._kafka)), self._kafka
        )
        self._consumer.assign([*dead_letters, *reports])
        await self._consumer.seek_to_end(*dead_letters)
        if reports:
            await self._consumer.seek_to_beginning(*reports)
            self._first_new_report = max((await self._consumer.end_offsets(reports)).values())

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
        """Read what was written since the last look: take in the reports, and count dead letters of the metrics topic by reason."""
        rejected: Counter[str] = Counter()
        consumer = self._consumer
        ends = await consumer.end_offsets(list(consumer.assignment()))
        while any([await consumer.position(tp) < end for tp, end in ends.items()]):
            fetched = await consumer.getmany(timeout_ms=200)
            for message in (message for messages in fetched.values() for message in messages):
                if message.topic == self._kafka.topics.health:
                    if (report := read_report(message.value, topic)) is not None:
                        self._reports.add(report, written_before=message.offset < self._first_new_report)
                    continue
                headers = {name: (value or b"").decode("utf-8", "replace") for name, value in message.headers}
                if headers.get(f"{PREFIX}topic") == topic:
                    rejected[headers.get(REASON, "unknown")] += 1
        return dict(rejected)
