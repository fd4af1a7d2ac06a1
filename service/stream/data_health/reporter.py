"""What a scoring worker tells of the data it sees, for whoever watches their health: from time to time one small report for
each partition it owns (``domain.HealthReport``), on a compacted topic.

A report is a snapshot, so it needs no transaction, and one that could not be written is simply followed by the next. Nothing here
holds up scoring: the windows are looked at piece by piece between two batches, in the intake's own thread.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from service.clock import Clock
from service.domain import I64, HealthItem, HealthReport, TrainedModel
from service.errors import BrokerUnavailable, ConfigError
from service.observability.logging import get_logger
from service.settings import Settings
from service.stream.data_health.stuck_metrics import prepare
from service.stream.data_health.survey import MOST_NAMED, Survey
from service.stream.intake import Intake, Result
from service.stream.models import Models
from service.stream.window_buffers import LATE, TAKEN

log = get_logger("reporting")

GONE_FOR_MS = 24 * 3_600_000  # how long it is told who was forgotten


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
    """How far the records of our partitions are handed on."""

    def refilled(self) -> Mapping[int, int]:
        """By partition whose windows are filled again: the offset behind the last record handed on."""
        ...

    def lag(self) -> Mapping[int, int]:
        """Records each partition is behind."""
        ...


@dataclass(eq=False)
class Ownership:
    """Our time with one partition. ``base``: its counts when we took it; ``last``: our last report, or before that its former
    owner's; ``met``: those named in it whose rows we hold."""

    partition: int
    since: int
    base: I64
    name: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    last: HealthReport | None = None
    met: set[str] = field(default_factory=set)
    read_to: int = -1
    over: bool = False


class Reporter:
    """Reports on the partitions that ``take`` names, until ``drop`` does; without ``reports`` it does nothing."""

    def __init__(
        self,
        settings: Settings,
        models: Models,
        intake: Intake,
        reading: ReadProgress,
        reports: ReportTopic | None,
        *,
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
        self._turns: dict[int, Ownership] = {}
        self._failed = False
        self._trained = tuple(TrainedModel(model.name, model.detector.bundle.trained_at) for model in models.all)

    async def start(self) -> None:
        """Connect. Raises ``BrokerUnavailable`` or ``ConfigError``."""
        if self._reports is not None:
            for model in self._models.all:
                await self._intake.run_between_batches(prepare, model.processor.windows)
            await self._reports.start()

    async def close(self) -> None:
        """Disconnect."""
        if self._reports is not None:
            await self._reports.close()

    def begin_ownership(self, partitions: Collection[int]) -> None:
        """These are ours from now on. To be said while no batch is under way."""
        for at in partitions:
            self._turns[at] = Ownership(at, self._clock.now_ms(), self._counts(at))

    def end_ownership(self, partitions: Collection[int]) -> None:
        """These are not any more. To be said before their windows are dropped."""
        for at in partitions:
            turn = self._turns.pop(at, None)
            if turn is not None:
                turn.over = True

    async def run(self) -> None:
        """Report from time to time, until cancelled."""
        while self._reports is not None:
            await self._clock.sleep(self._settings.check_every_seconds)
            try:
                await self.report(self._reports)
            except (BrokerUnavailable, ConfigError) as error:
                if not self._failed:
                    log.warning("the data's health cannot be reported now; trying again", why=str(error))
                self._failed = True
            except Exception as error:  # noqa: BLE001  # a mistake in here must not end scoring, nor stay unheard
                log.error("the data's health cannot be reported", why=repr(error))
                self._failed = True

    async def report(self, reports: ReportTopic) -> None:
        """One report on each partition whose windows are filled. Raises ``BrokerUnavailable`` or ``ConfigError``."""
        refilled, lag = self._reading.refilled(), self._reading.lag()
        turns = [turn for turn in self._turns.values() if turn.partition in refilled]
        if any(turn.last is None for turn in turns):
            former = await reports.newest()
            for turn in turns:
                if turn.last is None:
                    turn.last = former.get(turn.partition, HealthReport(topic=self._topic, partition=turn.partition, turn="", at=0))
        made = []
        for turn in turns:
            read_to, turn.read_to = turn.read_to, refilled[turn.partition]
            reading_on = turn.read_to != read_to and lag.get(turn.partition, 0) > 0
            told = await self._survey(turn, could_be_newer=reading_on or self._failed)
            if told is not None:
                turn.last = told
                made.append(told)
        await reports.write([one for one in made if not self._is_over(one)])
        if self._failed:
            log.info("the data's health is reported again")
        self._failed = False

    async def _survey(self, turn: Ownership, *, could_be_newer: bool) -> HealthReport | None:
        """The report on one partition; None when it was taken from us meanwhile. ``could_be_newer``: more has arrived than was
        read, so that nobody's silence can be told from our own being late."""
        now, last = self._clock.now_ms(), turn.last
        assert last is not None  # read before
        if last.turn == turn.name:  # or else we stood still ourselves
            could_be_newer |= now - last.at > 2 * self._settings.check_every_seconds * 1000
        newest = self._head(turn.partition)
        head = last.head if newest is None else newest
        head_at = now if could_be_newer or head != last.head else last.head_at
        latest = None if head is None else head + max(0, now - head_at)
        survey = Survey(self._models, turn.partition, self._settings, latest)
        for model, begin in list(survey.pieces()):
            await self._intake.run_between_batches(_unless_over, turn, survey.look, model, begin)
        settled: HealthReport | None = await self._intake.run_between_batches(_unless_over, turn, self._settle, turn, survey, now)
        if settled is None or turn.over:
            return None
        return msgspec.structs.replace(settled, head=head, head_at=head_at)

    def _settle(self, turn: Ownership, survey: Survey, now: int) -> HealthReport:
        last = turn.last
        assert last is not None
        lists, newly_gone = survey.settle(last, turn.met, unmet_are_gone=now - turn.since > self._idle_ms)
        turn.met = {one.entity for told in lists.values() for one in told.named if survey.knows(one.entity)}
        gone = [one for one in last.gone if now - one.since < GONE_FOR_MS and one.entity not in newly_gone]
        gone += [HealthItem(entity, now) for entity in sorted(newly_gone)]
        gone = [one for one in gone if not survey.knows(one.entity)][-MOST_NAMED:]
        counts = self._counts(turn.partition) - turn.base
        return HealthReport(
            topic=self._topic,
            partition=turn.partition,
            turn=turn.name,
            at=now,
            taken=int(counts[TAKEN]),
            late=int(counts[LATE]),
            gone=tuple(gone),
            models=self._trained,
            silent=lists["silent"],
            still=lists["still"],
            empty=lists["empty"],
        )

    def _head(self, partition: int) -> int | None:
        """The newest time of the partition, whichever model serves it."""
        rows = [(model.processor.newest_row(partition), model.schema.interval_ms) for model in self._models.all]
        return max((row * interval for row, interval in rows if row is not None), default=None)

    def _counts(self, partition: int) -> I64:
        counts = [model.processor.windows.counts_of(partition) for model in self._models.all]
        return sum(counts[1:], counts[0])

    def _is_over(self, report: HealthReport) -> bool:
        turn = self._turns.get(report.partition)
        return turn is None or turn.name != report.turn


def _unless_over(turn: Ownership, function: Callable[..., Result], *arguments: object) -> Result | None:
    """What the function says; nothing once the partition's windows may be dropped."""
    return None if turn.over else function(*arguments)
