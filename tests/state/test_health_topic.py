"""Reports from a worker to who watches, through a real Kafka; and how long one is believed, with a clock in the test's hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from service.clock import ManualClock, SystemClock
from service.domain import HealthItem, HealthItems, HealthReport, TrainedModel
from service.errors import BrokerUnavailable, ConfigError
from service.settings import DataHealthSettings, Settings
from service.state.health_topic import HealthTopic, LatestReports
from service.state.topic_monitor import TopicMonitor
from service.state.topics import create_topics
from tests.sources.rig import kafka_settings, read_all, send_raw

EVERY = DataHealthSettings(check_every_seconds=20)


def report(settings: Settings | None = None, partition: int = 0, **told: Any) -> HealthReport:
    topic = "metrics" if settings is None else settings.kafka.topics.metrics
    facts: dict[str, Any] = {"topic": topic, "partition": partition, "ownership": "t", "at": SystemClock().now_ms()}
    return HealthReport(**(facts | told))


@pytest.fixture
async def settings(kafka_servers: str) -> Settings:
    made = kafka_settings(kafka_servers)
    await create_topics(made.kafka)
    return made


@pytest.fixture
async def topic(settings: Settings) -> AsyncIterator[HealthTopic]:
    made = HealthTopic(settings.kafka)
    await made.start()
    yield made
    await made.close()


@pytest.mark.kafka
async def test_the_newest_report_of_each_partition_is_read_back_as_it_was(settings: Settings, topic: HealthTopic) -> None:
    full = report(
        settings,
        partition=1,
        head=5,
        taken=7,
        silent=HealthItems((HealthItem("dé/b", 3),), 9),
        still=HealthItems((HealthItem("b", 4, "cpu"),), 1),
        forgotten=(HealthItem("c", 5),),
        models=(TrainedModel("m", 5), TrainedModel("n", 6)),
    )
    await topic.write([report(settings), report(settings, partition=1, ownership="older")])
    await topic.write([full])
    others = settings.kafka.topics.model_copy(update={"metrics": "another"})
    another = HealthTopic(settings.kafka.model_copy(update={"topics": others}))
    assert await another.newest() == {}, "reports on another metrics topic are none of ours"
    found = await topic.newest()
    assert found[1] == full
    assert found.keys() == {0, 1}
    keys = [record.key for record in await read_all(settings.kafka.bootstrap_servers, settings.kafka.topics.health)]
    assert len(set(keys)) == 2, "one key for each partition, so that compaction keeps the newest"


@pytest.mark.kafka
async def test_who_watches_hears_each_look_what_came_since(settings: Settings, topic: HealthTopic) -> None:
    await topic.write([report(settings, taken=1000, late=1000), report(settings, partition=1, at=1)])
    clock = ManualClock(SystemClock().now_ms())
    watch = TopicMonitor(settings.kafka, EVERY, clock=clock)
    try:
        first = await watch.look()
        assert first.reports.keys() == {0}, "the other's worker is long dead"
        assert (first.taken, first.late) == (0, 0), "of what was before we know nothing"
        await send_raw(settings.kafka.bootstrap_servers, settings.kafka.topics.health, [(b"k", b"{"), (b"k", None)])
        await topic.write([report(settings, taken=1100, late=1010), report(settings, partition=1, at=2, taken=5)])
        second = await watch.look()
        assert (second.taken, second.late) == (105, 10)
        assert second.reports.keys() == {0, 1}, "who speaks now is believed, whatever his clock says"
        clock.advance(90)
        assert (await watch.look()).reports == {}
        await watch.close()
        assert (await watch.look()).reports == {}, "what we had heard before is no newer for being read once more"
    finally:
        await watch.close()


@pytest.mark.kafka
async def test_a_topic_that_is_missing_is_told_at_the_start(kafka_servers: str) -> None:
    unmade = kafka_settings(kafka_servers)
    topic = HealthTopic(unmade.kafka)
    with pytest.raises(ConfigError, match="does not exist"):
        await topic.start()
    await topic.close()


async def test_without_a_broker_writing_ends_in_time() -> None:
    topic = HealthTopic(kafka_settings("127.0.0.1:1", connect_timeout_seconds=0.3).kafka)
    with pytest.raises(BrokerUnavailable):
        await topic.write([report()])
    await topic.close()


def test_a_new_owner_counts_from_the_beginning_and_nothing_is_counted_twice() -> None:
    heard = LatestReports(clock=ManualClock(1000), max_age_ms=60)
    assert heard.counts() == (0, 0)
    heard.add(report(ownership="a", taken=10, late=1), written_before=False)
    assert heard.counts() == (10, 1)
    assert heard.counts() == (0, 0)
    heard.add(report(ownership="a", taken=15, late=2), written_before=False)
    heard.add(report(ownership="b", taken=3, late=0), written_before=False)  # what a counted meanwhile nobody has read
    assert heard.counts() == (3, 0)


def test_a_report_is_believed_for_a_while_by_our_own_clock() -> None:
    clock = ManualClock(100_000)
    heard = LatestReports(clock=clock, max_age_ms=60_000)
    heard.add(report(partition=0, at=1), written_before=True)
    heard.add(report(partition=1, at=90_000), written_before=True)
    heard.add(report(partition=2, at=999_000_000), written_before=True)
    heard.add(report(partition=3, at=1), written_before=False)
    assert heard.valid().keys() == {1, 2, 3}
    clock.advance(55)
    assert heard.valid().keys() == {2, 3}
    clock.advance(10)
    assert heard.valid() == {}
