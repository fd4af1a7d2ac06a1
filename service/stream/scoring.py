"""The scoring part: metrics in, alert transitions out. It reads like the drawing in docs/architecture.md."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Mapping, Sequence

from service.alerts.control.topic import ControlReader
from service.alerts.lifecycle.acknowledgements import Acknowledgements
from service.alerts.lifecycle.episodes import Episodes
from service.clock import Clock
from service.domain import Alert, WindowBatch
from service.kafka_options import Commit
from service.observability.health import Health
from service.observability.logging import get_logger
from service.observability.metrics import Metrics
from service.runtime import close_all
from service.sources.base import RecordBatch, Source
from service.state.transactions import PartitionOutcome, TransactionalOutbox
from service.stream.data_health.reporter import Reporter
from service.stream.entity_state import EntityStates
from service.stream.intake import Intake, IntakeResult
from service.stream.models import Model, Models
from service.verdicts import Verdicts

log = get_logger("scoring")

WARN_EVERY_SECONDS = 60.0
# Upper bound for the windows of one batch. Three batches are held at a time, and memory that is touched for the first time costs
# more than all the work on it.
BATCH_BYTES = 64 << 20


class ScoringPart:
    """Consume, decode, slide, score, follow episodes, emit: offsets, outputs and entity state in one transaction per partition."""

    name = "scoring"

    def __init__(
        self,
        *,
        source: Source,
        intake: Intake,
        models: Models,
        episodes: Episodes,
        states: EntityStates,
        outbox: TransactionalOutbox,
        reporter: Reporter,
        acknowledgements: Acknowledgements,
        control: ControlReader,
        metrics: Metrics,
        health: Health,
        clock: Clock,
    ) -> None:
        """``models``, ``episodes`` and ``acknowledgements`` are those that ``intake``, ``states`` and ``control`` work on."""
        self._source = source
        self._intake = intake
        self._models = models
        self._episodes = episodes
        self._states = states
        self._outbox = outbox
        self._reporter = reporter
        self._acknowledgements = acknowledgements
        self._control = control
        self._metrics = metrics
        self._health = health
        self._clock = clock
        self._skipped: Counter[str] = Counter()
        self._expired = 0
        self._warn_again_at = 0.0
        self._scoring = asyncio.Lock()

    async def start(self) -> None:
        """Connect to Kafka. Raises ``BrokerUnavailable`` or ``ConfigError``."""
        self._health.beat(self.name, ready=False, detail="connecting")
        await self._control.start()
        await self._outbox.start()
        await self._reporter.start()
        await self._source.start()

    async def run(self) -> None:
        """Work until asked to stop.

        While there is lag, three batches overlap: one is committed, the next scored, the one after that decoded. Without lag a
        batch is finished before the next is fetched: overlapping would only slow each of them down, and small batches cost more
        per record than large ones.
        """
        under_way: deque[asyncio.Task[None]] = deque()
        try:
            async for batch in self._source.batches(self):
                result = await self._intake.process(batch)
                await self._scoring.acquire()  # free when the previous batch is scored and the one before it committed
                before = under_way[-1] if under_way else None
                under_way.append(asyncio.create_task(self._handle(batch, result, before)))
                behind = sum(self._source.lag().values())
                if behind <= len(batch.records):
                    await asyncio.wait([under_way[-1]])
                while under_way and under_way[0].done():
                    await under_way.popleft()
                reading, trouble = self._source.reading, self._source.trouble
                detail = f"lag {behind} records" if reading else "taking over partitions, or waiting for Kafka"
                self._health.beat(self.name, ready=reading and trouble is None, detail=trouble or detail)
        finally:
            await asyncio.gather(*under_way, return_exceptions=True)
        for task in under_way:
            task.result()

    def request_stop(self) -> None:
        """Finish the current batch, then stop."""
        self._source.request_stop()

    async def close(self) -> None:
        """Leave the group and disconnect."""
        detectors = [model.detector.close for model in self._models.all]
        closers = (self._reporter, self._source, self._outbox, self._control, self._intake)
        await close_all(*(each.close for each in closers), *detectors)

    async def take_over(self, partitions: Collection[int]) -> Mapping[int, Commit | None]:
        """See ``sources.base.Owner``: fences the former owners and loads the entity state they wrote."""
        taken = await self._outbox.take_over(partitions)
        for partition, found in taken.items():
            # In a thread: 100,000 entities take a second. No batch is processed meanwhile.
            await asyncio.to_thread(self._states.restore, partition, found.state)
        self._reporter.begin_ownership(partitions)
        return {partition: found.commit for partition, found in taken.items()}

    async def release(self, partitions: Collection[int]) -> None:
        """See ``sources.base.Owner``: drops the windows and the state of these partitions."""
        self._reporter.end_ownership(partitions)
        await self._outbox.release(partitions)
        await self._intake.run_between_batches(self._forget, partitions)  # the reporter reads the windows there too

    def _forget(self, partitions: Collection[int]) -> None:
        for partition in partitions:
            stored = self._states.drop(partition)
            for model in self._models.all:
                model.processor.drop_restored_labels(stored)
                entities = {*stored, *model.processor.drop_partitions([partition])}
                model.detector.forget(entities)
                self._episodes.forget(entities)

    async def _handle(self, batch: RecordBatch, result: IntakeResult, before: asyncio.Task[None] | None) -> None:
        """Score and commit one batch, after ``before``, the previous one. If that failed, this one raises the same and commits
        nothing."""
        try:
            try:
                found = await self._detect(result.due)
                outcomes = self._outcomes(batch, result, found)
                if before is not None:
                    await before
            finally:
                self._scoring.release()
            lost = await self._outbox.emit(outcomes)
            self._source.mark_lost(lost)
            self._count(batch, found, [outcome for at, outcome in outcomes.items() if at not in lost])
        finally:
            self._source.batch_done()

    async def _detect(self, due: Sequence[tuple[Model, WindowBatch]]) -> list[tuple[Model, Verdicts]]:
        found: list[tuple[Model, Verdicts]] = []
        for model, windows in due:
            started = self._clock.monotonic()
            found.append((model, await model.detector.detect(windows)))
            self._metrics.scoring_seconds.observe(self._clock.monotonic() - started)
        return found

    def _outcomes(
        self, batch: RecordBatch, result: IntakeResult, found: Sequence[tuple[Model, Verdicts]]
    ) -> dict[int, PartitionOutcome]:
        """By partition: the transitions and rejected records, the changed entity state, and the offset to commit."""
        parts = [part for _, verdicts in found for part in verdicts.by_partition().items()]
        alerts, expired = self._follow(parts, result)
        changed: dict[int, set[str]] = defaultdict(set)
        for partition, verdicts in parts:
            changed[partition].update(verdicts.entities)
        for partition, caused in alerts.items():  # an acknowledgement changes an entity without a verdict
            changed[partition] |= {alert.entity for alert in caused} - set(expired.get(partition, ()))
        return {
            at: PartitionOutcome(
                alerts=alerts.get(at, []),
                rejected=[item for item in result.rejected if item.record.partition == at],
                state=self._states.change(at, changed.get(at, ()), expired.get(at, ())),
                commit=result.commits.get(at),
            )
            for at in {record.partition for record in batch.records} | set(expired) | set(alerts)
        }

    def _follow(
        self, parts: Sequence[tuple[int, Verdicts]], result: IntakeResult
    ) -> tuple[Mapping[int, list[Alert]], Mapping[int, list[str]]]:
        """By partition: the transitions of the episodes, and the entities that expired, whose open episodes are closed."""
        alerts: dict[int, list[Alert]] = defaultdict(list)
        expired: dict[int, list[str]] = defaultdict(list)
        for partition, verdicts in parts:
            alerts[partition] += self._episodes.observe(verdicts)
        for model, partition, entity in result.expired:
            expired[partition].append(entity)
            alerts[partition] += self._episodes.close_idle([entity])
            model.detector.forget([entity])
        for acknowledged in self._acknowledgements.apply():
            alerts[acknowledged.partition].append(acknowledged)
        return alerts, expired

    def _count(self, batch: RecordBatch, found: Sequence[tuple[Model, Verdicts]], outcomes: Sequence[PartitionOutcome]) -> None:
        metrics = self._metrics
        metrics.consumed.inc(len(batch.records))
        reasons = [item.reason for outcome in outcomes for item in outcome.rejected]
        metrics.count_dead_letters(reasons)
        if "too-many-entities" in reasons:
            self._warn_of_too_many()
        for model, verdicts in found:
            metrics.count_windows(model.detector.bundle.name, verdicts)
        for action, count in Counter(alert.action for outcome in outcomes for alert in outcome.alerts).items():
            metrics.transitions.labels(action).inc(count)
        for partition, lag in self._source.lag().items():
            metrics.lag.labels(str(partition)).set(lag)
        self._count_samples()

    def _count_samples(self) -> None:
        counts = [model.processor.counts for model in self._models.all]
        self._metrics.entities.set(sum(count.entities for count in counts))
        self._metrics.entities_limit.set(sum(count.max_entities for count in counts))
        expired = sum(count.expired for count in counts)
        self._metrics.entities_forgotten.inc(expired - self._expired)
        self._expired = expired
        now = Counter(late=sum(c.late for c in counts), duplicate=sum(c.duplicate for c in counts))
        for reason in now - self._skipped:
            self._metrics.skipped.labels(reason).inc(now[reason] - self._skipped[reason])
        self._skipped = now

    def _warn_of_too_many(self) -> None:
        now = self._clock.monotonic()
        if now >= self._warn_again_at:
            self._warn_again_at = now + WARN_EVERY_SECONDS
            hint = "raise stream.max_entities, or look for made-up names: tidewatch dead-letter list --reason too-many-entities"
            log.warning("the limit of entities is reached; messages of new ones are dead-lettered", hint=hint)
