"""Batches overlap, and what they lead to does not show it. Real Kafka, kills and rebalances: tests/chaos and tests/sources."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from service.alerts.control.topic import ControlReader
from service.alerts.lifecycle.acknowledgements import Acknowledgements
from service.alerts.lifecycle.episodes import Episodes
from service.app import build_model
from service.clock import SystemClock
from service.detectors.bundle import Bundle
from service.domain import Record
from service.errors import ConfigError
from service.observability.health import Health
from service.observability.metrics import Metrics
from service.sources.base import Owner, RecordBatch
from service.sources.codecs.native import NativeCodec
from service.state.transactions import PartitionOutcome
from service.stream.data_health.reporter import Reporter
from service.stream.entity_state import EntityStates
from service.stream.intake import Intake
from service.stream.models import Models
from service.stream.scoring import ScoringPart
from tests.alerts.makers import background_tasks
from tests.stream.small import METRICS, SETTINGS, records

ROWS = 80


def sent() -> list[Record]:
    """Four entities row by row; from row 50 on one of them is far from normal."""
    values = np.random.default_rng(4).normal(size=(ROWS, 4, len(METRICS))).astype(np.float32)
    values[50:, 1] += 40
    return records(values)


class Feed:
    """Instead of the Kafka source: these batches, as fast as they are taken, with ``lag`` records behind each."""

    reading = True
    trouble: str | None = None

    def __init__(self, batches: Sequence[RecordBatch], *, lag: int) -> None:
        self._batches = batches
        self._lag = lag
        self.in_hand = self.most = 0
        self.lost: set[int] = set()

    async def batches(self, owner: Owner) -> AsyncIterator[RecordBatch]:
        for batch in self._batches:
            self.in_hand += 1
            self.most = max(self.most, self.in_hand)
            yield batch

    def batch_done(self) -> None:
        self.in_hand -= 1

    def mark_lost(self, partitions: Collection[int]) -> None:
        self.lost |= set(partitions)

    def lag(self) -> dict[int, int]:
        return {0: self._lag}

    async def close(self) -> None:
        pass


class Outbox:
    """Instead of Kafka: takes its time, and keeps what it was given; ``fails`` at that emit."""

    def __init__(self, fails: int | None = None) -> None:
        self.taken: list[PartitionOutcome] = []
        self._fails = fails
        self._at_work = False

    async def emit(self, outcomes: Mapping[int, PartitionOutcome]) -> set[int]:
        assert not self._at_work
        self._at_work = True
        await asyncio.sleep(0.02)
        self._at_work = False
        if len(self.taken) == self._fails:
            raise ConfigError("Kafka does not let us write.", hint="")
        self.taken += outcomes.values()
        return set()

    async def close(self) -> None:
        pass


def scoring_part(bundle: Bundle, feed: Any, outbox: Any) -> ScoringPart:
    models = Models([("*", build_model(bundle, SETTINGS))])
    episodes = Episodes(SETTINGS.alerts, "")
    acknowledgements = Acknowledgements(episodes, clock=SystemClock(), lifetime_ms=1000)
    intake = Intake(NativeCodec(models.schema_of, SETTINGS.stream), models)
    clock = SystemClock()
    health = Health(clock)
    return ScoringPart(
        source=feed,
        intake=intake,
        models=models,
        episodes=episodes,
        states=EntityStates(models, episodes),
        outbox=outbox,
        reporter=Reporter(SETTINGS, models, intake, feed, None, health=health, clock=clock),
        acknowledgements=acknowledgements,
        control=ControlReader(SETTINGS.kafka, acknowledgements.receive, background_tasks()),
        metrics=Metrics(),
        health=health,
        clock=clock,
    )


async def run(bundle: Bundle, fails: int | None = None, *, lag: int = 1000) -> tuple[Feed, Outbox, BaseException | None]:
    messages = sent()
    feed = Feed([RecordBatch(messages[at : at + 16], {0: 0}) for at in range(0, len(messages), 16)], lag=lag)
    outbox = Outbox(fails)
    part = scoring_part(bundle, feed, outbox)
    ended = None
    try:
        await part.run()
    except ConfigError as error:
        ended = error
    await part.close()
    return feed, outbox, ended


async def test_batches_overlap_when_behind_and_lead_to_what_they_lead_to_one_by_one(bundle: Bundle) -> None:
    feed, overlapping, ended = await run(bundle)
    caught_up, one_by_one, _ = await run(bundle, lag=0)
    assert ended is None
    assert (feed.most, caught_up.most) == (3, 1)
    assert feed.in_hand == 0
    assert [outcome.commit.offset for outcome in overlapping.taken if outcome.commit] == list(range(16, 4 * ROWS + 1, 16))
    assert [outcome.alerts for outcome in overlapping.taken] == [outcome.alerts for outcome in one_by_one.taken]
    assert [outcome.state for outcome in overlapping.taken] == [outcome.state for outcome in one_by_one.taken]
    assert any(outcome.alerts for outcome in overlapping.taken)


async def test_nothing_is_committed_behind_a_batch_that_failed(bundle: Bundle) -> None:
    feed, outbox, ended = await run(bundle, fails=4)
    assert isinstance(ended, ConfigError)
    assert [outcome.commit.offset for outcome in outbox.taken if outcome.commit] == [16, 32, 48, 64]
    assert feed.in_hand == 0
