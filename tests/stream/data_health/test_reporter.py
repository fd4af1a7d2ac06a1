"""What a worker reports of its data: real windows, a clock in the test's hand, and a list instead of Kafka's topic."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from service.app import build_model
from service.clock import ManualClock, SystemClock
from service.detectors.bundle import Bundle
from service.detectors.windowing.metric_activity import MetricActivity
from service.domain import HealthItem, HealthItems, HealthReport, Record
from service.errors import BrokerUnavailable
from service.observability.health import Health
from service.settings import Settings
from service.sources.base import RecordBatch
from service.sources.codecs.message import encode
from service.sources.codecs.native import NativeCodec
from service.stream.data_health import survey
from service.stream.data_health.reporter import Reporter
from service.stream.intake import Intake
from service.stream.models import Models
from tests.stream.small import FIRST, METRICS, SETTINGS

WINDOW = 20
MOVING = MetricActivity(windows=5000, decided=(5000,) * 3, still=(0,) * 3, empty=(0,) * 3)


class Kept:
    """Instead of the topic: the newest report of each partition; ``away``: nothing can be written."""

    def __init__(self) -> None:
        self.newest_of: dict[int, HealthReport] = {}
        self.away = False
        self.defect: Exception | None = None
        self.writes = 0

    async def start(self) -> None:
        pass

    async def newest(self) -> Mapping[int, HealthReport]:
        return dict(self.newest_of)

    async def write(self, reports: Collection[HealthReport]) -> None:
        if self.away:
            raise BrokerUnavailable("Kafka is away.")
        if self.defect is not None:
            raise self.defect
        self.writes += 1
        for report in reports:
            again = msgspec.json.decode(msgspec.json.encode(report), type=HealthReport)
            assert again == report
            self.newest_of[report.partition] = again

    async def close(self) -> None:
        pass


class Worker:
    """Intake and reporter as the scoring part joins them, on partition 0 of a topic that reaches us at once."""

    def __init__(self, bundle: Bundle, kept: Kept, clock: ManualClock, *, usual: MetricActivity = MOVING, **stream: float) -> None:
        self.kept, self.clock = kept, clock
        self.offset = 0
        self.behind = 0
        settings = SETTINGS.model_copy(
            update={
                "data_health": Settings(data_health={"max_entity_silence_seconds": 60}).data_health,
                "stream": Settings(stream={"max_gap_rows": 3, **stream}).stream,
            }
        )
        self.models = Models([("*", build_model(replace(bundle, metric_activity=usual, trained_at=77), settings))])
        self.models.all[0].processor._clock = clock
        self.intake = Intake(NativeCodec(self.models.schema_of, settings.stream), self.models)
        self.health = Health(SystemClock())
        self.health.beat("scoring", ready=True)
        self.reporter = Reporter(settings, self.models, self.intake, self, kept, health=self.health, clock=clock)
        self.reporter.begin_ownership([0])

    def refilled(self) -> dict[int, int]:
        return {0: self.offset}

    def lag(self) -> dict[int, int]:
        return {0: self.behind}

    async def send(
        self, rows: range, entities: Mapping[str, Mapping[str, float | None]], labels: Mapping[str, str] | None = None
    ) -> None:
        """Rows of entities; a metric that is not named takes another value in each row."""
        made = []
        for row in rows:
            for name, told in entities.items():
                stamp = (FIRST + row) * 1000
                moving = {metric: float(row % 7 + at) for at, metric in enumerate(METRICS)}
                made.append(
                    Record("metrics", 0, self.offset, stamp, name.encode(), encode(name, stamp, {**moving, **told}, labels))
                )
                self.offset += 1
        self.clock._now_ms = max(self.clock._now_ms, (FIRST + rows[-1]) * 1000)
        result = await self.intake.process(RecordBatch(made, {0: 0}))
        assert not result.rejected

    async def report(self) -> HealthReport:
        await self.reporter.report(self.kept)
        return self.kept.newest_of[0]


@pytest.fixture
async def kept() -> Kept:
    return Kept()


@pytest.fixture
async def worker(bundle: Bundle, kept: Kept) -> AsyncIterator[Worker]:
    made = Worker(bundle, kept, ManualClock(FIRST * 1000))
    yield made
    made.intake.close()


def sending(names: Collection[str]) -> dict[str, dict[str, float | None]]:
    """All metrics of all of them move."""
    return {name: {} for name in names}


def at(row: int) -> int:
    return (FIRST + row) * 1000


async def test_a_report_names_the_labels_of_the_entities_it_names(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    await worker.send(range(100), {"a": {}, "b": {}, "c": {}}, {"rack": "r2"})
    await worker.send(range(100, 170), {"a": {"cpu": 3.0}})
    report = await worker.report()
    assert report.labels == {name: {"rack": "r2"} for name in "abc"}
    assert (report.entities, report.population) == (3, {"rack": {"r2": 3}})
    monkeypatch.setattr(survey, "LABEL_BYTES", 45)  # two of them
    report = await worker.report()
    assert len(report.labels) == 2
    assert report.silent.count == 2


async def test_who_sends_no_more_is_silent_from_the_last_row_until_the_next(worker: Worker) -> None:
    await worker.send(range(100), {"a": {}, "b": {}})
    assert (await worker.report()).silent == HealthItems()
    await worker.send(range(100, 150), {"a": {}})
    assert (await worker.report()).silent.count == 0, "50 of 60 s"
    await worker.send(range(150, 170), {"a": {}})
    assert (await worker.report()).silent == HealthItems((HealthItem("b", at(99)),), 1)
    await worker.send(range(170, 171), {"a": {}, "b": {}})
    assert (await worker.report()).silent == HealthItems()


async def test_when_all_fall_silent_the_clock_goes_on_for_them(worker: Worker) -> None:
    await worker.send(range(100), {"a": {}, "b": {}})
    first = await worker.report()
    for _ in range(2):
        worker.clock.advance(30)
        assert (await worker.report()).silent.count == 0
    worker.clock.advance(5)
    told = await worker.report()
    assert [one.entity for one in told.silent.named] == ["a", "b"]
    assert (told.head, told.head_at) == (at(99), first.head_at)


async def test_our_own_being_late_makes_nobody_silent(worker: Worker) -> None:
    await worker.send(range(100), {"a": {}})
    await worker.report()
    worker.clock.advance(600)
    assert (await worker.report()).silent.count == 0, "we stood still ourselves"
    worker.clock.advance(50)
    worker.offset, worker.behind = worker.offset + 1, 10  # reading on, with more to come
    assert (await worker.report()).silent.count == 0
    worker.kept.away = True
    began = worker.clock.now_ms()
    await worker.reporter.start()
    while worker.clock.now_ms() < began + 600_000:  # the reporter's own sleep moves it
        await asyncio.sleep(0.001)
    worker.kept.away = False
    await worker.reporter.close()
    told = await worker.report()
    assert told.silent.count == 0, "Kafka was away, so nothing could come"


async def test_what_stands_still_or_has_only_nulls_is_named_with_when_it_began(worker: Worker) -> None:
    await worker.send(range(100), {"a": {}, "b": {}})
    await worker.send(range(100, 119), {"a": {"cpu": 3.0}, "b": {"io": None}})
    told = await worker.report()
    assert (told.still.count, told.empty.count) == (0, 0)
    for end in (120, 200):  # since when it is so is remembered although the window has moved on
        await worker.send(range(119 if end == 120 else 120, end), {"a": {"cpu": 3.0}, "b": {"io": None}})
        told = await worker.report()
        assert told.still == HealthItems((HealthItem("a", at(100), "cpu"),), 1)
        assert told.empty == HealthItems((HealthItem("b", at(100), "io"),), 1)
    await worker.send(range(200, 201), {"a": {}, "b": {}})
    told = await worker.report()
    assert (told.still.count, told.empty.count) == (0, 0)


async def test_a_window_that_begins_anew_proves_nothing(worker: Worker) -> None:
    await worker.send(range(100), {"a": {"cpu": 3.0}, "b": {}})
    assert [one.entity for one in (await worker.report()).still.named] == ["a"]
    await worker.send(range(120, 125), {"a": {"cpu": 3.0}, "b": {}})  # a hole: both windows begin anew
    assert [one.entity for one in (await worker.report()).still.named] == ["a"]
    await worker.send(range(125, 126), {"a": {"cpu": 4.0}, "b": {}})
    assert (await worker.report()).still == HealthItems()


FEW = MetricActivity(windows=999, decided=(999,) * 3, still=(0,) * 3, empty=(0,) * 3)
OFTEN = MetricActivity(windows=5000, decided=(5000,) * 3, still=(5,) * 3, empty=(5,) * 3)


@pytest.mark.parametrize("usual", [FEW, OFTEN])
async def test_what_training_saw_little_of_or_saw_often_is_not_watched(bundle: Bundle, kept: Kept, usual: MetricActivity) -> None:
    worker = Worker(bundle, kept, ManualClock(FIRST * 1000), usual=usual)
    await worker.send(range(100), {"a": {"cpu": 3.0, "io": None}})
    told = await worker.report()
    assert (told.still.count, told.empty.count) == (0, 0)
    worker.intake.close()


async def test_who_was_forgotten_is_gone_and_comes_back_as_new(bundle: Bundle, kept: Kept) -> None:
    worker = Worker(bundle, kept, ManualClock(FIRST * 1000), idle_after_seconds=300)
    await worker.send(range(100), {"a": {}, "b": {"cpu": 3.0}})
    await worker.send(range(100, 200), {"a": {}})
    told = await worker.report()
    assert [one.entity for one in told.silent.named] == [one.entity for one in told.still.named] == ["b"]
    await worker.send(range(200, 500), {"a": {}})
    told = await worker.report()
    assert (told.silent, told.still) == (HealthItems(), HealthItems())
    assert [one.entity for one in told.forgotten] == ["b"]
    await worker.send(range(500, 501), {"a": {}, "b": {}})
    assert (await worker.report()).forgotten == ()
    worker.intake.close()


async def test_the_next_owner_goes_on_from_the_report_of_the_one_before(bundle: Bundle, kept: Kept, worker: Worker) -> None:
    await worker.send(range(100), {"a": {}, "b": {}, "c": {"cpu": 3.0}})
    await worker.send(range(100, 180), {"a": {}, "c": {"cpu": 3.0}})
    before = await worker.report()
    assert [one.entity for one in before.silent.named] == ["b"]
    worker.reporter.end_ownership([0])
    await worker.report()
    assert kept.newest_of[0] is before, "whoever dropped it says no more"

    after = Worker(bundle, kept, worker.clock, idle_after_seconds=300)
    await after.send(range(175, 185), {"a": {}, "c": {"cpu": 3.0}})  # all that the way back was allowed to bring
    told = await after.report()
    assert (told.silent, told.still) == (before.silent, before.still)
    assert told.ownership != before.ownership
    assert (told.taken, told.models[0].trained_at) == (20, 77)
    await after.send(range(185, 500), {"a": {}, "c": {"cpu": 3.0}})
    after.clock.advance(1)
    told = await after.report()
    assert told.silent.count == 0
    assert [one.entity for one in told.forgotten] == ["b"], "nobody has seen it for as long as anybody is remembered"
    after.intake.close()


async def test_late_samples_are_counted_from_when_the_partition_was_taken(worker: Worker) -> None:
    await worker.send(range(100), {"a": {}})
    worker.reporter.begin_ownership([0])
    await worker.send(range(100, 150), {"a": {}})
    await worker.send(range(10), {"a": {}})
    told = await worker.report()
    assert (told.taken, told.late) == (60, 10)


async def test_of_many_the_oldest_are_named_and_all_are_counted(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "MAX_NAMED", 5)
    monkeypatch.setattr(survey, "CHUNK_SLOTS", 4)
    names = [f"host-{number:02}" for number in range(20)]
    await worker.send(range(30), sending(names))
    for number in range(12):  # one after the other breaks off
        await worker.send(range(30 + number, 31 + number), sending(names[number + 1 :]))
    await worker.send(range(42, 120), sending(names[12:]))
    told = await worker.report()
    assert [one.entity for one in told.silent.named] == names[:5]
    assert (told.silent.count, told.silent.complete) == (12, False)
    await worker.send(range(120, 121), sending([names[0], *names[12:]]))
    told = await worker.report()
    assert [one.entity for one in told.silent.named] == names[1:6]
    assert told.silent.count == 11


async def test_nothing_is_said_of_a_partition_that_goes_while_it_is_looked_at(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await worker.send(range(100), {"a": {}})
    plain = worker.intake.run_between_batches

    async def run_then_drop(*arguments: Any) -> Any:
        found = await plain(*arguments)
        worker.reporter.end_ownership([0])
        return found

    monkeypatch.setattr(worker.intake, "run_between_batches", run_then_drop)
    await worker.reporter.report(worker.kept)
    assert worker.kept.newest_of == {}


async def test_a_reporter_that_fails_turns_its_part_red_and_reports_again(worker: Worker) -> None:
    await worker.send(range(100), {"a": {}})
    worker.kept.defect = RuntimeError("a defect")
    await worker.reporter.start()
    async with asyncio.timeout(30):
        while worker.health.ready():
            await asyncio.sleep(0.001)
        assert "data-health reports" in str(worker.health.describe()["scoring"])
        assert "a defect" in str(worker.health.describe()["scoring"])
        worker.kept.defect = None
        while not (worker.health.ready() and worker.kept.newest_of):
            await asyncio.sleep(0.001)
    assert worker.kept.newest_of[0].taken == 100
    await worker.reporter.close()
