"""The compacted topic ``tidewatch.health``: the newest report on each partition of the metrics topic, for who watches the data."""

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
    """Writes reports, each under the key of its partition; what is written twice changes nothing."""

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
            raise BrokerUnavailable(f"The former reports cannot be read: {error!r}.") from error
        found = (read_report(value, self._kafka.topics.metrics) for value in records.values())
        return {report.partition: report for report in found if report is not None}

    async def write(self, reports: Collection[HealthReport]) -> None:
        """Write them and wait, for a bounded time. Raises ``BrokerUnavailable`` or ``ConfigError``."""
        topic = self._kafka.topics.health
        await self._writer.write(Outgoing(topic, 0, _encode([one.topic, one.partition]), _encode(one)) for one in reports)

    async def close(self) -> None:
        """Disconnect; bounded in time."""
        await self._writer.close()


def read_report(value: bytes | None, metrics_topic: str) -> HealthReport | None:
    """A record of the topic, where it is a report on this metrics topic."""
    try:
        report = None if value is None else _decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        log.warning("the health topic holds a record that is no report; skipped", why=str(error))
        return None
    return report if report is not None and report.topic == metrics_topic else None


class LatestReports:
    """The newest report of each partition, and what came of them since this was last asked.

    How old a report is shows in our own clock once we follow the topic, so that two clocks that differ silence nothing; one that
    was there before we came is as old as it says.
    """

    def __init__(self, *, clock: Clock, believed_ms: int) -> None:
        self._clock = clock
        self._believed_ms = believed_ms
        self._newest: dict[int, tuple[HealthReport, int]] = {}
        self._counted: dict[int, tuple[str, int, int]] | None = None

    def hear(self, report: HealthReport, *, was_there: bool) -> None:
        """A report, in the topic's order."""
        now = self._clock.now_ms()
        self._newest[report.partition] = report, min(report.at, now) if was_there else now

    def believed(self) -> dict[int, HealthReport]:
        """Those that are new enough."""
        oldest = self._clock.now_ms() - self._believed_ms
        return {at: report for at, (report, heard_at) in self._newest.items() if heard_at >= oldest}

    def counts(self) -> tuple[int, int]:
        """Samples taken, and late, since the last call; the first one knows of nothing. A new owner counts from 0."""
        before, self._counted = self._counted, {at: (one.turn, one.taken, one.late) for at, (one, _) in self._newest.items()}
        taken = late = 0
        if before is None:
            return 0, 0
        for at, (turn, took, came_late) in self._counted.items():
            was = before.get(at)
            known = was[1:] if was is not None and was[0] == turn else (0, 0)
            taken, late = taken + took - known[0], late + came_late - known[1]
        return taken, late
