"""The scoring part: metrics in, alert transitions out. It reads like the drawing in docs/architecture.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from service.alerts.episodes import Episodes
from service.clock import Clock
from service.domain import Alert, Rejected, Verdict, WindowBatch
from service.kafka_options import Commit
from service.observability.health import Health
from service.observability.logging import get_logger
from service.observability.metrics import Metrics
from service.sources.base import Codec, RecordBatch
from service.sources.kafka import KafkaSource
from service.state.transactions import Outbox
from service.stream.models import Model, Models
from service.stream.pipeline import Pipeline

log = get_logger("scoring")


class ScoringPart:
    """Consume, decode, slide, score, follow episodes, emit; then the offsets are committed with what they led to."""

    name = "scoring"

    def __init__(
        self,
        *,
        source: KafkaSource,
        codec: Codec,
        models: Models,
        episodes: Episodes,
        outbox: Outbox,
        metrics: Metrics,
        health: Health,
        clock: Clock,
    ) -> None:
        self._source = source
        self._models = models
        self._pipeline = Pipeline(codec, models, self._detect)
        self._episodes = episodes
        self._outbox = outbox
        self._metrics = metrics
        self._health = health
        self._clock = clock
        self._skipped: Counter[str] = Counter()

    async def start(self) -> None:
        """Connect to Kafka. Raises ``BrokerUnavailable`` or ``ConfigError``."""
        self._health.beat(self.name, ready=False, detail="connecting")
        await self._outbox.start()
        await self._source.start()

    async def run(self) -> None:
        """Work until asked to stop."""
        async for batch in self._source.batches():
            await self._handle(batch)
            self._health.beat(self.name, ready=True, detail=f"lag {sum(self._source.lag().values())} records")

    def request_stop(self) -> None:
        """Finish the batch in hand, then stop."""
        self._source.request_stop()

    async def close(self) -> None:
        """Leave the group and disconnect."""
        await self._source.close()
        await self._outbox.close()
        self._pipeline.close()
        for model in self._models.all:
            model.detector.close()

    async def _handle(self, batch: RecordBatch) -> None:
        verdicts, refused = await self._pipeline.score(batch.records, batch.resume_at)
        alerts = self._episodes.observe(verdicts) + self._close_silent()
        rejected = [item for item in refused if _is_new(item, batch)]
        await self._outbox.emit(alerts=alerts, rejected=rejected, offsets=self._offsets(batch))
        self._count(batch, verdicts, alerts, rejected)

    async def _detect(self, due: Sequence[tuple[Model, WindowBatch]]) -> list[Verdict]:
        verdicts: list[Verdict] = []
        for model, windows in due:
            started = self._clock.monotonic()
            verdicts += await model.detector.detect(windows)
            self._metrics.scoring_seconds.observe(self._clock.monotonic() - started)
        return verdicts

    def _close_silent(self) -> list[Alert]:
        """What is still open of entities that stopped sending so long ago that their windows were forgotten."""
        closed: list[Alert] = []
        for model in self._models.all:
            silent = model.processor.take_expired()
            if silent:
                model.detector.forget(silent)
                closed += self._episodes.close_idle(silent)
        return closed

    def _offsets(self, batch: RecordBatch) -> dict[int, Commit]:
        """Where each partition of the batch goes on, and the oldest record that its windows still need."""
        behind: dict[int, int] = {record.partition: record.offset + 1 for record in batch.records}
        offsets = {}
        for partition, offset in behind.items():
            needed = [model.processor.oldest_offset(partition) for model in self._models.all]
            offsets[partition] = Commit(offset, min((one for one in needed if one is not None), default=None))
        return offsets

    def forget_partitions(self, partitions: Collection[int]) -> None:
        """Drop everything known of the entities of partitions that are another's now, or will be refilled."""
        for model in self._models.all:
            entities = model.processor.drop_partitions(partitions)
            model.detector.forget(entities)
            self._episodes.forget(entities)

    def _count(
        self, batch: RecordBatch, verdicts: Sequence[Verdict], alerts: Sequence[Alert], rejected: Sequence[Rejected]
    ) -> None:
        metrics = self._metrics
        metrics.consumed.inc(len(batch.records))
        for reason, count in Counter(item.reason for item in rejected).items():
            metrics.rejected.labels(reason).inc(count)
        for bundle, count in Counter(verdict.bundle for verdict in verdicts if verdict.not_scored is None).items():
            metrics.scored.labels(bundle).inc(count)
        for verdict in verdicts:
            if verdict.not_scored is not None:
                metrics.not_scored.labels("low-coverage" if not verdict.members else "no-detector").inc()
            elif verdict.is_anomaly:
                metrics.anomalies.labels(verdict.severity).inc()
        for silent, count in Counter((m.name, m.state) for v in verdicts for m in v.members if m.state != "ok").items():
            metrics.member_failures.labels(*silent).inc(count)
        for action, count in Counter(alert.action for alert in alerts).items():
            metrics.transitions.labels(action).inc(count)
        for partition, lag in self._source.lag().items():
            metrics.lag.labels(str(partition)).set(lag)
        self._count_samples()

    def _count_samples(self) -> None:
        counts = [model.processor.counts for model in self._models.all]
        self._metrics.entities.set(sum(count.entities for count in counts))
        now = Counter(late=sum(c.late for c in counts), duplicate=sum(c.duplicate for c in counts))
        for reason in now - self._skipped:
            self._metrics.skipped.labels(reason).inc(now[reason] - self._skipped[reason])
        self._skipped = now


def _is_new(item: Rejected, batch: RecordBatch) -> bool:
    """False for a record that only refilled windows: it was set aside when it was first read."""
    return item.record.offset >= batch.resume_at.get(item.record.partition, 0)
