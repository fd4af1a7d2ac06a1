"""Reports on the data that a scoring process sees, for the data-health alerts: every ``check_every_seconds`` one
``domain.HealthReport`` for each partition it owns, on a compacted topic.

A report is a snapshot: it needs no transaction, and one that could not be written is replaced by the next. Scoring is not delayed:
the windows are surveyed in chunks between two batches, in the intake's thread.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import msgspec

from service.clock import Clock
from service.domain import I64, HealthItem, HealthReport, TrainedModel
from service.errors import BrokerUnavailable, ConfigError
from service.observability.health import Health
from service.observability.logging import get_logger
from service.observability.tasks import BackgroundTasks
from service.settings import Settings
from service.stream.data_health.stuck_metrics import compile_loop
from service.stream.data_health.survey import MAX_NAMED, Survey
from service.stream.intake import Intake, Result
from service.stream.models import Models
from service.stream.window_buffers import LATE, TAKEN

log = get_logger("reporting")

EXPIRED_KEPT_MS = 24 * 3_600_000  # how long a report names an expired entity


class ReportTopic(Protocol):
    """Where reports go."""

    async def start(self) -> None:
        """Connect. Raises ``BrokerUnavailable`` or ``ConfigError``."""
        ...

    async def newest(self) -> Mapping[int, HealthReport]:
        """The newest report of each partition. Raises as ``start`` does."""
        ...

    async def write(self, reports: Collection[HealthReport]) -> None:
        """Write them; bounded in time. Raises as ``start`` does."""
        ...

    async def close(self) -> None:
        """Disconnect; bounded in time."""
        ...


class ReadProgress(Protocol):
    """How far the records of our partitions are read."""

    def refilled(self) -> Mapping[int, int]:
        """By partition whose windows are refilled: the offset behind the last delivered record."""
        ...

    def lag(self) -> Mapping[int, int]:
        """Records each partition is behind."""
        ...


@dataclass(eq=False)
class Ownership:
    """One ownership period of a partition. ``base``: its counts at the beginning; ``last``: the newest report (ours, else the
    previous owner's); ``seen``: entities in it that we have since seen."""

    partition: int
    since: int
    base: I64
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    last: HealthReport | None = None
    seen: set[str] = field(default_factory=set)
    read_to: int = -1
    ended: bool = False


class Reporter:
    """Reports on the partitions between ``begin_ownership`` and ``end_ownership``; without ``reports`` it does nothing.

    Its background task is watched (``observability.tasks``) as a task of the part ``scoring``.
    """

    def __init__(
        self,
        settings: Settings,
        models: Models,
        intake: Intake,
        reading: ReadProgress,
        reports: ReportTopic | None,
        *,
        health: Health,
        clock: Clock,
    ) -> None:
        self._settings = settings.data_health
        self._idle_ms = round(settings.stream.idle_after_seconds * 1000)
        self._topic = settings.kafka.topics.metrics
        self._models = models
        self._intake = intake
        self._reading = reading
        self._reports = reports
        self._clock = clock
        self._tasks = BackgroundTasks("scoring", health, clock)
        self._owned: dict[int, Ownership] = {}
        self._failed = False
        self._trained = tuple(TrainedModel(model.name, model.detector.bundle.trained_at) for model in models.all)

    async def start(self) -> None:
        """Connect and begin to report. Raises ``BrokerUnavailable`` or ``ConfigError``."""
        if self._reports is not None:
            for model in self._models.all:
                await self._intake.run_between_batches(compile_loop, model.processor.windows)
            await self._reports.start()
            self._tasks.start("data-health reports", partial(self._run, self._reports))

    async def close(self) -> None:
        """Stop reporting and disconnect."""
        await self._tasks.close()
        if self._reports is not None:
            await self._reports.close()

    def begin_ownership(self, partitions: Collection[int]) -> None:
        """These partitions are ours from now on. To be called while no batch is processed."""
        for at in partitions:
            self._owned[at] = Ownership(at, self._clock.now_ms(), self._counts(at))

    def end_ownership(self, partitions: Collection[int]) -> None:
        """These partitions are no longer ours. To be called before their windows are dropped."""
        for at in partitions:
            owned = self._owned.pop(at, None)
            if owned is not None:
                owned.ended = True

    async def _run(self, reports: ReportTopic) -> None:
        """Report every ``check_every_seconds``, until cancelled; while Kafka is away, or refuses us, the next report is tried."""
        while True:
            await self._clock.sleep(self._settings.check_every_seconds)
            failed_before = self._failed
            try:
                await self.report(reports)
            except (BrokerUnavailable, ConfigError) as error:
                if not failed_before:
                    log.warning("data health cannot be reported now; trying again", why=str(error))

    async def report(self, reports: ReportTopic) -> None:
        """Write one report on each partition whose windows are refilled. Raises ``BrokerUnavailable`` or ``ConfigError``."""
        failed_before, self._failed = self._failed, True  # until this report is written
        refilled, lag = self._reading.refilled(), self._reading.lag()
        ownerships = [owned for owned in self._owned.values() if owned.partition in refilled]
        if any(owned.last is None for owned in ownerships):
            former = await reports.newest()
            for owned in ownerships:
                if owned.last is None:
                    owned.last = former.get(
                        owned.partition, HealthReport(topic=self._topic, partition=owned.partition, ownership="", at=0)
                    )
        made: list[tuple[Ownership, HealthReport]] = []
        for owned in ownerships:
            read_to, owned.read_to = owned.read_to, refilled[owned.partition]
            catching_up = owned.read_to != read_to and lag.get(owned.partition, 0) > 0
            report = await self._survey(owned, may_be_behind=catching_up or failed_before)
            if report is not None:
                owned.last = report
                made.append((owned, report))
        await reports.write([report for owned, report in made if not owned.ended])
        if failed_before:
            log.info("data health is reported again")
        self._failed = False

    async def _survey(self, owned: Ownership, *, may_be_behind: bool) -> HealthReport | None:
        """The report on one partition; None when the ownership ended meanwhile. ``may_be_behind``: records may have arrived
        that we have not read, so an entity that looks silent need not be."""
        now, last = self._clock.now_ms(), owned.last
        assert last is not None  # read before
        if last.ownership == owned.id:  # a late report: this process itself was stopped
            may_be_behind |= now - last.at > 2 * self._settings.check_every_seconds * 1000
        newest = self._newest_time(owned.partition)
        head = last.head if newest is None else newest
        head_at = now if may_be_behind or head != last.head else last.head_at
        latest = None if head is None else head + max(0, now - head_at)
        survey = Survey(self._models, owned.partition, self._settings, latest)
        for model, begin in list(survey.chunks()):
            await self._intake.run_between_batches(_unless_ended, owned, survey.scan, model, begin)
        report: HealthReport | None = await self._intake.run_between_batches(_unless_ended, owned, self._merge, owned, survey, now)
        if report is None or owned.ended:
            return None
        return msgspec.structs.replace(report, head=head, head_at=head_at)

    def _merge(self, owned: Ownership, survey: Survey, now: int) -> HealthReport:
        """The survey's report, with what is still valid of the newest one."""
        last = owned.last
        assert last is not None
        lists, newly_expired = survey.merge(last, owned.seen, unseen_expired=now - owned.since > self._idle_ms)
        owned.seen = {item.entity for items in lists.values() for item in items.named if survey.knows(item.entity)}
        expired = [item for item in last.forgotten if now - item.since < EXPIRED_KEPT_MS and item.entity not in newly_expired]
        expired += [HealthItem(entity, now) for entity in sorted(newly_expired)]
        expired = [item for item in expired if not survey.knows(item.entity)][-MAX_NAMED:]
        counts = self._counts(owned.partition) - owned.base
        return HealthReport(
            topic=self._topic,
            partition=owned.partition,
            ownership=owned.id,
            at=now,
            taken=int(counts[TAKEN]),
            late=int(counts[LATE]),
            forgotten=tuple(expired),
            models=self._trained,
            silent=lists["silent"],
            still=lists["still"],
            empty=lists["empty"],
            labels=survey.labels(lists.values(), last),
            entities=survey.population.entities,
            population=survey.population.counts(),
        )

    def _newest_time(self, partition: int) -> int | None:
        """The newest event time of the partition (ms), whichever model serves it."""
        rows = [(model.processor.newest_row(partition), model.schema.interval_ms) for model in self._models.all]
        return max((row * interval for row, interval in rows if row is not None), default=None)

    def _counts(self, partition: int) -> I64:
        counts = [model.processor.windows.counts_of(partition) for model in self._models.all]
        return sum(counts[1:], counts[0])


def _unless_ended(owned: Ownership, function: Callable[..., Result], *arguments: object) -> Result | None:
    """Call the function; None once the partition's windows may have been dropped."""
    return None if owned.ended else function(*arguments)
