"""The compacted topic ``tidewatch.health``: the newest data-health report on each partition of the metrics topic."""

from __future__ import annotations

from collections.abc import Collection

import msgspec
from aiokafka.errors import KafkaError

from service.clock import Clock
from service.domain import HealthReport
from service.errors import BrokerUnavailable
from service.observability.logging import get_logger
from service.settings import KafkaSettings
from service.state.producer import Outgoing
from service.state.takeover import read_state
from service.state.writer import Writer

log = get_logger("health")

_encode = msgspec.json.encode
_decoder = msgspec.json.Decoder(HealthReport)


class HealthTopic:
    """Writes reports, each under the key of its partition; writing one twice changes nothing."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._writer = Writer(kafka, "reports")

    async def start(self) -> None:
        """Connect. Raises ``BrokerUnavailable``, or ``ConfigError`` when the topic is missing."""
        await self._writer.require(self._kafka.topics.health)

    async def newest(self) -> dict[int, HealthReport]:
        """The newest report of each partition of our metrics topic. Raises ``BrokerUnavailable`` or ``ConfigError``."""
        try:
            records = (await read_state(self._kafka, self._kafka.topics.health, [0]))[0]
        except (KafkaError, OSError, TimeoutError) as error:
            raise BrokerUnavailable(f"The newest reports cannot be read: {error!r}.") from error
        found = (read_report(value, self._kafka.topics.metrics) for value in records.values())
        return {report.partition: report for report in found if report is not None}

    async def write(self, reports: Collection[HealthReport]) -> None:
        """Write them and wait; bounded in time. Raises ``BrokerUnavailable`` or ``ConfigError``."""
        topic = self._kafka.topics.health
        await self._writer.write(Outgoing(topic, 0, _encode([one.topic, one.partition]), _encode(one)) for one in reports)

    async def close(self) -> None:
        """Disconnect; bounded in time."""
        await self._writer.close()


def read_report(value: bytes | None, metrics_topic: str) -> HealthReport | None:
    """A record of the topic as a report; None where it is no report, or one on another metrics topic."""
    try:
        report = None if value is None else _decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        log.warning("skipped a record of the health topic that is no report", why=str(error))
        return None
    return report if report is not None and report.topic == metrics_topic else None


class LatestReports:
    """The newest report of each partition, and the samples counted since the last call.

    The age of a report that we saw arrive goes by our own clock, so that a difference between two clocks expires nothing. The age
    of one that was in the topic before us goes by its own time.
    """

    def __init__(self, *, clock: Clock, max_age_ms: int) -> None:
        self._clock = clock
        self._max_age_ms = max_age_ms
        self._newest: dict[int, tuple[HealthReport, int]] = {}  # with when it was written, or arrived
        self._counted: dict[int, HealthReport] | None = None

    def add(self, report: HealthReport, *, written_before: bool) -> None:
        """A report, in the topic's order; ``written_before``: it was in the topic when we started."""
        now = self._clock.now_ms()
        self._newest[report.partition] = report, min(report.at, now) if written_before else now

    def valid(self) -> dict[int, HealthReport]:
        """By partition: the reports that are at most ``max_age_ms`` old."""
        oldest = self._clock.now_ms() - self._max_age_ms
        return {partition: report for partition, (report, known_at) in self._newest.items() if known_at >= oldest}

    def counts(self) -> tuple[int, int]:
        """Samples taken, and late, since the last call; (0, 0) at the first call. A new owner counts from 0."""
        before, self._counted = self._counted, {partition: report for partition, (report, _) in self._newest.items()}
        taken = late = 0
        if before is None:
            return taken, late
        for partition, report in self._counted.items():
            last = before.get(partition)
            if last is not None and last.ownership == report.ownership:
                taken, late = taken - last.taken, late - last.late
            taken, late = taken + report.taken, late + report.late
        return taken, late
