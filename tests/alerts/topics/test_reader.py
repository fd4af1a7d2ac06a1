"""The reader and the store part on a real Kafka and a real Elasticsearch."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from elasticsearch import AsyncElasticsearch

from service.alerts.control.commands import AddSilence, ExpireSilence
from service.alerts.control.topic import ControlReader, send_command
from service.alerts.history.alert_documents import document
from service.alerts.history.elasticsearch import ElasticsearchAlertStore
from service.alerts.history.mute_annotator import MuteAnnotator
from service.alerts.history.part import StorePart
from service.alerts.history.reader import AlertHistory
from service.alerts.topics.reader import AlertTopicReader
from service.alerts.topics.transitions import encode_transition
from service.clock import SystemClock
from service.domain import Alert, Rejected
from service.errors import BrokerUnavailable, ConfigError, StoreUnavailable
from service.observability.health import Health
from service.observability.metrics import Metrics
from service.settings import ElasticsearchSettings, KafkaSettings, NotificationSettings, TopicSettings
from service.state.dead_letter_writer import DeadLetterWriter
from tests.alerts.makers import BORN, alert, background_tasks, life
from tests.alerts.memory_store import MemoryAlertStore
from tests.sources.rig import read_all

pytestmark = pytest.mark.kafka


@pytest.fixture
async def kafka(kafka_servers: str) -> KafkaSettings:
    name = f"alerts-{uuid.uuid4().hex[:8]}"
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_servers)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 1, 1) for topic in (name, f"{name}-control", f"{name}-told")])
    await admin.close()
    topics = TopicSettings(alerts=name, control=f"{name}-control", notifications=f"{name}-told")
    return KafkaSettings(bootstrap_servers=kafka_servers, group_prefix=name, topics=topics)


@pytest.fixture
async def producer(kafka_servers: str) -> AsyncIterator[AIOKafkaProducer]:
    made = AIOKafkaProducer(bootstrap_servers=kafka_servers)
    await made.start()
    yield made
    await made.stop()


async def publish(producer: AIOKafkaProducer, kafka: KafkaSettings, alerts: Sequence[Alert]) -> None:
    for each in alerts:
        key, value = encode_transition(each)
        await producer.send(kafka.topics.alerts, value, key=key, partition=0)
    await producer.flush()


async def read(reader: AlertTopicReader, count: int) -> list[Alert]:
    """The next ``count`` transitions, committed."""
    found: list[Alert] = []
    async with asyncio.timeout(30):
        async for batch in reader.batches():
            found += batch.alerts
            if batch.next_offsets:
                assert await reader.commit(batch.next_offsets, batch.turn)
            if len(found) >= count:
                break
    return found


async def test_what_was_committed_is_not_read_again_and_the_rest_is(kafka: KafkaSettings, producer: AIOKafkaProducer) -> None:
    transitions = [t for n in range(4) for t in life(f"host-{n}")]
    await publish(producer, kafka, transitions)
    first = AlertTopicReader(kafka, "store", on_poison=lambda _: None, max_records=5)
    await first.start()
    part = await read(first, 5)
    await first.close()
    second = AlertTopicReader(kafka, "store", on_poison=lambda _: None)
    await second.start()
    rest = await read(second, 7)
    await second.close()
    assert part + rest == transitions


async def test_what_was_fetched_while_the_group_rebalanced_comes_again_also_before_the_first_commit(
    kafka: KafkaSettings, producer: AIOKafkaProducer
) -> None:
    await publish(producer, kafka, life())
    reader = AlertTopicReader(kafka, "store", on_poison=lambda _: None)
    await reader.start()
    getmany = reader._consumer.getmany
    rebalanced: list[Any] = []

    async def rebalancing(**options: Any) -> Any:
        fetched = await getmany(**options)
        if fetched and not rebalanced:
            rebalanced.append(fetched)
            reader._assignment_changed(reader._consumer.assignment())
        return fetched

    reader._consumer.getmany = rebalancing
    assert await read(reader, 3) == life()
    assert rebalanced
    await reader.close()


async def test_another_role_reads_everything_too(kafka: KafkaSettings, producer: AIOKafkaProducer) -> None:
    await publish(producer, kafka, life())
    for role in ("store", "notify"):
        reader = AlertTopicReader(kafka, role, on_poison=lambda _: None)
        await reader.start()
        assert await read(reader, 3) == life()
        await reader.close()


async def test_poison_is_reported_and_stepped_over(kafka: KafkaSettings, producer: AIOKafkaProducer) -> None:
    for value in (b"\x00\xff", b"{}", b'{"alert_id": 7}', None):
        await producer.send_and_wait(kafka.topics.alerts, value, key=b"k", partition=0)
    await publish(producer, kafka, life())
    poison: list[Rejected] = []
    reader = AlertTopicReader(kafka, "store", on_poison=poison.append)
    await reader.start()
    assert await read(reader, 3) == life()
    await reader.close()
    assert [(p.reason, p.record.offset) for p in poison] == [
        ("not-an-alert", 0),
        ("not-an-alert", 1),
        ("not-an-alert", 2),
        ("empty", 3),
    ]


async def test_working_long_on_a_batch_keeps_the_membership(kafka: KafkaSettings, producer: AIOKafkaProducer) -> None:
    # the session is shorter than the work, and records arrive meanwhile
    quick = kafka.model_copy(update={"session_timeout_seconds": 6.0})
    await publish(producer, quick, life("host-1"))
    reader = AlertTopicReader(quick, "store", on_poison=lambda _: None)
    await reader.start()
    found: list[Alert] = []
    async with asyncio.timeout(60):
        async for batch in reader.batches():
            if not batch.alerts:
                continue
            if not found:
                await publish(producer, quick, life("host-2"))
                await reader.alongside(asyncio.sleep(8))
            found += batch.alerts
            assert await reader.commit(batch.next_offsets, batch.turn)
            if len(found) == 6:
                break
    await reader.close()
    assert found == life("host-1") + life("host-2")


async def test_a_second_member_stands_by_and_takes_over(kafka: KafkaSettings, producer: AIOKafkaProducer) -> None:
    seen: dict[str, list[Alert]] = {"a": [], "b": []}

    async def work(name: str, reader: AlertTopicReader) -> None:
        await reader.start()
        async for batch in reader.batches():
            if batch.next_offsets and await reader.commit(batch.next_offsets, batch.turn):
                seen[name] += batch.alerts
        await reader.close()

    readers = {name: AlertTopicReader(kafka, "notify", on_poison=lambda _: None) for name in seen}
    first = asyncio.create_task(work("a", readers["a"]))
    await publish(producer, kafka, life("host-1"))
    await _until(lambda: len(seen["a"]) == 3)
    second = asyncio.create_task(work("b", readers["b"]))
    await asyncio.sleep(2)
    readers["a"].request_stop()
    await first
    owner_changed = life("host-2")
    await publish(producer, kafka, owner_changed)
    await _until(lambda: len(seen["a"]) + len(seen["b"]) == 6)
    readers["b"].request_stop()
    await second
    assert seen["a"] + seen["b"] == life("host-1") + owner_changed


async def test_kafka_away_is_a_retry_with_a_clear_sentence() -> None:
    reader = AlertTopicReader(
        KafkaSettings(bootstrap_servers="127.0.0.1:1", connect_timeout_seconds=0.5), "store", on_poison=lambda _: None
    )
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:1"):
        await reader.start()
    await reader.close()


async def test_a_topic_that_was_never_made_is_a_clear_mistake(kafka_servers: str) -> None:
    kafka = KafkaSettings(bootstrap_servers=kafka_servers, topics=TopicSettings(alerts="never-made", control="never-made"))
    reader, control = (
        AlertTopicReader(kafka, "store", on_poison=lambda _: None),
        ControlReader(kafka, lambda _: None, background_tasks()),
    )
    for start in (
        reader.start,
        control.start,
        lambda: send_command(kafka, ExpireSilence(id="x", silence_id="s", author="Ada", at=0)),
    ):
        with pytest.raises(ConfigError, match="never-made does not exist") as raised:
            await start()
        assert "tidewatch setup" in raised.value.hint
    await reader.close()
    await control.close()


async def _until(true: Any) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.05)


class Flaky(MemoryAlertStore):
    """Away for the first ``times`` calls."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    async def write(self, alerts: Sequence[Alert]) -> None:
        if self.times > 0:
            self.times -= 1
            raise StoreUnavailable("away")
        await super().write(alerts)


async def test_the_store_part_commits_only_what_is_stored(kafka: KafkaSettings, producer: AIOKafkaProducer) -> None:
    await publish(producer, kafka, life())
    clock = SystemClock()
    dead = StorePart(kafka, Flaky(10**6), metrics=Metrics(), health=(health := Health(clock)))
    await dead.start()
    task = asyncio.create_task(dead.run())
    await _until(lambda: health.describe()["store"]["detail"] == "away")
    assert not health.ready()
    dead.request_stop()
    await asyncio.wait_for(task, 30)
    await dead.close()

    store, metrics = Flaky(2), Metrics()
    back = StorePart(kafka, store, metrics=metrics, health=health)
    await back.start()
    task = asyncio.create_task(back.run())
    await _until(health.ready)
    await _until(lambda: metrics.stored._value.get() == 3)
    back.request_stop()
    await task
    await back.close()
    assert await store.alerts() == life()[-1:]


@pytest.mark.elasticsearch
async def test_transitions_become_the_history(kafka: KafkaSettings, producer: AIOKafkaProducer, elasticsearch_url: str) -> None:
    settings = ElasticsearchSettings(url=elasticsearch_url, index_prefix=kafka.topics.alerts)
    metrics = Metrics()
    part = StorePart(kafka, ElasticsearchAlertStore(settings), metrics=metrics, health=Health(SystemClock()))
    await part.start()
    task = asyncio.create_task(part.run())
    await publish(producer, kafka, [t for n in range(30) for t in life(f"host-{n}")])
    await _until(lambda: metrics.stored._value.get() == 90)
    part.request_stop()
    await task
    await part.close()
    history = AlertHistory(settings)
    await history.refresh()
    assert {found["event"]["action"] for found in await history.find()} == {"resolved"}
    assert len(await history.find()) == 30
    await history.close()


@pytest.mark.elasticsearch
async def test_what_will_never_be_stored_lies_in_the_dead_letter_before_anything_is_committed(
    kafka: KafkaSettings, producer: AIOKafkaProducer, elasticsearch_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(each: Any, muted_by: str | None) -> dict[str, Any]:
        made = document(each, muted_by)
        if each.entity == "bad":
            made["event"]["start"] = "not a date"
        return made

    monkeypatch.setattr("service.alerts.history.elasticsearch.document", broken)
    dead = f"{kafka.topics.alerts}-dead"
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    await admin.start()
    await admin.create_topics([NewTopic(dead, 1, 1)])
    await admin.close()
    kafka = kafka.model_copy(update={"topics": kafka.topics.model_copy(update={"dead_letter": dead})})
    settings, metrics = ElasticsearchSettings(url=elasticsearch_url, index_prefix=kafka.topics.alerts), Metrics()
    store = ElasticsearchAlertStore(settings, on_refused=lambda operation, why: part.refused(operation, why))
    letters_writer = DeadLetterWriter(kafka, on_written=metrics.count_dead_letters)
    part: StorePart = StorePart(kafka, store, metrics=metrics, health=Health(SystemClock()), letters=letters_writer)
    await part.start()
    task = asyncio.create_task(part.run())
    await producer.send_and_wait(kafka.topics.alerts, b"no alert", partition=0)
    await publish(producer, kafka, [alert("good"), alert("bad"), alert("better")])
    await _until(lambda: metrics.stored._value.get() == 3)
    part.request_stop()
    await task
    await part.close()
    letters = await read_all(kafka.bootstrap_servers, dead)
    reasons = [dict(letter.headers)["tidewatch.reason"] for letter in letters]
    assert reasons == [b"not-an-alert", b"document-refused", b"document-refused"]  # the alert's state and its event
    counted = metrics.exposition().decode()
    assert 'tidewatch_records_dead_lettered_total{reason="not-an-alert"} 1.0' in counted
    assert 'tidewatch_records_dead_lettered_total{reason="document-refused"} 2.0' in counted
    assert letters[0].value == b"no alert"
    assert [msgspec.json.decode(letter.value or b"")["tidewatch"]["entity"] for letter in letters[1:]] == ["bad", "bad"]
    history = AlertHistory(settings)
    await history.refresh()
    assert {found["tidewatch"]["entity"] for found in await history.find()} == {"good", "better"}
    await history.close()


@pytest.mark.elasticsearch
async def test_silenced_alerts_are_stored_and_marked(
    kafka: KafkaSettings, producer: AIOKafkaProducer, elasticsearch_url: str
) -> None:
    during, long_after = alert("db-7"), alert("db-7", started_at=BORN * 1000 + 86_400_000)
    hush = AddSilence(
        id="s1",
        match={"entity": "db-*"},
        starts_at=BORN * 1000,
        ends_at=BORN * 1000 + 3_600_000,
        author="Ada",
        at=BORN,
        comment="disks",
    )
    await send_command(kafka, hush)
    await publish(producer, kafka, [during, alert("web-1"), long_after])
    settings = ElasticsearchSettings(url=elasticsearch_url, index_prefix=kafka.topics.alerts)
    annotator, metrics = (
        MuteAnnotator(kafka, NotificationSettings(), health=Health(SystemClock()), clock=SystemClock(), keep_ms=86_400_000),
        Metrics(),
    )
    store = ElasticsearchAlertStore(settings, muted=annotator.reason)
    part = StorePart(kafka, store, metrics=metrics, health=Health(SystemClock()), annotator=annotator)
    await part.start()
    task = asyncio.create_task(part.run())
    await _until(lambda: metrics.stored._value.get() == 3)
    part.request_stop()
    await task
    await part.close()
    history = AlertHistory(settings)
    await history.refresh()
    found = {each["event"]["id"]: each["tidewatch"]["muted_by"] for each in await history.find()}
    await history.close()
    client = AsyncElasticsearch(elasticsearch_url)
    await client.indices.refresh(index=f"{settings.index_prefix}-words")
    words = await client.search(index=f"{settings.index_prefix}-words")
    await client.close()
    assert [word["_source"]["message"] for word in words["hits"]["hits"]] == [
        "Ada silenced entity=db-* until 2025-11-22T01:00:00.000Z."
    ]
    assert found[during.alert_id] == "silenced by Ada (s1): disks"
    assert [found[each] for each in found if each != during.alert_id] == [None, None]
