"""Alerts about the data itself: the decisions with a clock in the test's hand, and the notifier on a real Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from service.alerts.control.commands import Acknowledge
from service.alerts.control.topic import send_command
from service.alerts.data_health.alerts import DataHealth
from service.alerts.data_health.checks import check
from service.alerts.history.alert_documents import document
from service.alerts.messages.message import compose
from service.alerts.messages.rendering import context
from service.alerts.receivers.slack import payload
from service.alerts.topics.transitions import decode_transition, encode_transition
from service.app import build_service
from service.demo.receivers import HttpReceiver
from service.domain import Alert, DataSnapshot, Record, Rejected, Status
from service.runtime import run_parts
from service.settings import DataHealthSettings, Settings, TopicSettings
from service.state.dead_letter import dead_letter
from service.state.topics import create_topics
from tests.chaos.judge import read_topic
from tests.sources.rig import kafka_settings

BOUNDS = DataHealthSettings(
    max_lag_records=100, max_rejected_share=0.05, max_topic_idle_seconds=60, max_entity_silence_seconds=60, fire_after=3
)
UNWATCHED = DataHealthSettings(
    max_lag_records=None,
    max_rejected_share=None,
    still_metrics=False,
    empty_metrics=False,
    max_late_share=None,
    max_model_age_days=None,
)
WELL = DataSnapshot(lag={0: 40, 1: 60}, read=1000, rejected={"not-json": 50})


@pytest.mark.parametrize(
    ("seen", "bad", "words"),
    [
        (WELL, set(), ""),
        (DataSnapshot(lag={0: 41, 1: 60}, read=10), {"lag"}, "101 messages of 2 partitions are not read yet (100 allowed)"),
        (
            DataSnapshot(lag={0: 0}, read=1000, rejected={"late": 1, "too-many-entities": 50}),
            {"rejected"},
            "51 of 1,000 messages were refused, mostly too-many-entities (5% allowed)",
        ),
        (DataSnapshot(lag={0: 0}, read=99, rejected={"not-json": 99}), set(), ""),  # too few to speak of a share
        (DataSnapshot(lag={0: 0}, quiet_ms=61_000), {"quiet"}, "nothing has arrived for 1 min 1 s"),
    ],
)
def test_what_is_bad(seen: DataSnapshot, bad: set[str], words: str) -> None:
    found = check(seen, BOUNDS, 0)
    assert set(found) == {"lag", "quiet"} | ({"rejected"} if seen.read >= 100 else set())
    assert {name for name, one in found.items() if one.bad} == bad
    assert not bad or words in {found[name].message for name in bad}


def test_what_has_no_bound_is_not_watched() -> None:
    assert check(WELL, UNWATCHED, 0) == {}
    assert not UNWATCHED.watched


def restarted(data: DataHealth, kept: dict[bytes, bytes], emitted: list[Alert]) -> DataHealth:
    """The changes recorded and emitted, and whoever goes on from the record."""
    records, caused = data.take_changes()
    for key, value in records.items():
        if value is None:
            kept.pop(key)
        else:
            kept[key] = value
    emitted += caused
    other = DataHealth(BOUNDS, "metrics")
    other.restore(kept)
    return other


@examples(max_examples=200, deadline=None)
@given(st.lists(st.booleans(), max_size=40), st.booleans())
def test_it_fires_and_resolves_after_three_in_a_row_whatever_restarts(looks: list[bool], restarts: bool) -> None:
    data, kept, emitted = DataHealth(BOUNDS, "metrics"), dict[bytes, bytes](), list[Alert]()
    expected: list[tuple[int, str]] = []
    open_, row = False, 0
    for number, bad in enumerate(looks, 1):
        row = row + 1 if bad is not open_ else 0
        if row == 3:
            open_, row = bad, 0
            expected.append((number, "fired" if bad else "resolved"))
        data.take_in(DataSnapshot(lag={0: 500 if bad else 0}), number * 1000)
        after = restarted(data, kept, emitted)
        data = after if restarts else data
    assert [(each.updated_at // 1000, each.action) for each in emitted] == expected
    assert len({each.alert_id for each in emitted}) == (len(emitted) + 1) // 2
    assert all(each.seq == (1 if each.status is Status.FIRING else 2) for each in emitted)
    assert bool(data.open_alerts()) is open_


def test_few_messages_count_with_those_that_follow_and_none_say_nothing() -> None:
    data = DataHealth(BOUNDS, "metrics")
    for second in range(6):  # half of them refused, sixty at a time, and looks in between that see nothing
        data.take_in(DataSnapshot(lag={}, read=60, rejected={"not-json": 30}), second * 1000)
        data.take_in(DataSnapshot(lag={}), second * 1000 + 500)
    (fired,) = data.take_changes()[1]
    assert fired.reason == "60 of 120 messages were refused, mostly not-json (5% allowed)"
    for second in range(6, 9):
        data.take_in(DataSnapshot(lag={}), second * 1000)
    assert data.open_alerts()
    for second in range(9, 12):
        data.take_in(DataSnapshot(lag={}, read=120), second * 1000)
    assert not data.open_alerts()


def test_an_alert_is_taken_once_and_a_bound_that_is_gone_resolves_it() -> None:
    data = DataHealth(BOUNDS, "metrics")
    for second in range(3):
        data.take_in(DataSnapshot(lag={0: 500}), second * 1000)
    (fired,) = data.take_changes()[1]
    for _ in range(2):
        data.acknowledge(fired.alert_id, "Ada", "on it", 9000)
        data.acknowledge("another", "Ada", "", 9000)
    (taken,) = data.take_changes()[1]
    assert (taken.seq, taken.acknowledged_by, taken.reason) == (2, "Ada", "acknowledged by Ada: on it")
    data.settings = BOUNDS.model_copy(update={"max_lag_records": None})
    for second in range(10, 13):
        data.take_in(DataSnapshot(lag={0: 500}), second * 1000)
    (resolved,) = data.take_changes()[1]
    assert (resolved.seq, resolved.status, resolved.reason) == (3, Status.RESOLVED, "no longer watched")


def test_it_is_worded_without_a_score_everywhere() -> None:
    data = DataHealth(BOUNDS, "metrics")
    for second in range(3):
        data.take_in(DataSnapshot(lag={0: 500}), 1_763_769_600_000 + second * 1000)
    (fired,) = data.take_changes()[1]
    message = compose(fired)
    assert message.title == "[WARNING] metrics: 500 messages of 1 partition are not read yet (100 allowed)"
    assert message.sentence.startswith("The data of metrics are not well since ")
    text = str(payload([fired])) + str(context([fired], "key", {}, 5)) + document(fired)["message"]
    assert "one window in" not in text
    assert document(fired)["tidewatch"]["kind"] == "data_health"
    assert msgspec.json.decode(encode_transition(fired)[1], type=Alert) == fired


@pytest.fixture
async def settings(kafka_servers: str) -> Settings:
    made = kafka_settings(kafka_servers)
    await create_topics(made.kafka)
    return made


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(90):
        while not holds():
            await asyncio.sleep(0.1)


def watching(settings: Settings, pager: HttpReceiver, **bounds: float | None) -> tuple[asyncio.Event, asyncio.Task[None]]:
    """A notifier with quick eyes, and the way to stop it."""
    told = {
        "receivers": [{"name": "pager", "type": "webhook", "url": pager.url, "allow_http": True}],
        "routes": [
            {"match": {"kind": "data_health"}, "receivers": ["pager"], "group_wait_seconds": 0, "group_interval_seconds": 0}
        ],
    }
    changed = Settings(
        kafka=settings.kafka.model_dump(),
        notifications={**told, "attempt_timeout_seconds": 5},
        data_health={"check_every_seconds": 0.2, "fire_after": 2, **bounds},
        http={"enabled": False},
    )
    stop = asyncio.Event()
    return stop, asyncio.create_task(run_parts(build_service(changed, ["notify"]), stop))


async def read_up_to(settings: Settings, offset: int) -> None:
    """As the scoring group would commit it."""
    group = f"{settings.kafka.group_prefix}.scoring"
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.kafka.bootstrap_servers, group_id=group, enable_auto_commit=False)
    await consumer.start()
    partition = TopicPartition(settings.kafka.topics.metrics, 0)
    consumer.assign([partition])
    await consumer.commit({partition: offset})
    await consumer.stop()


@pytest.mark.kafka
async def test_lag_is_told_taken_and_resolved_across_a_restart_of_the_notifier(settings: Settings) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka.bootstrap_servers)
    await producer.start()
    for _ in range(300):
        await producer.send(settings.kafka.topics.metrics, b"{}", partition=0)
    await producer.stop()
    async with HttpReceiver() as pager:
        stop, task = watching(settings, pager, max_lag_records=200)
        await until(lambda: pager.accepted)
        (fired,) = pager.accepted[0].json()["alerts"]
        assert (fired["reason"], fired["kind"]) == ("300 messages of 1 partition are not read yet (200 allowed)", "data_health")
        stop.set()
        await task
        said = Acknowledge(id="a", alert_id=fired["alert_id"], entity=fired["entity"], author="Ada", at=1)
        await send_command(settings.kafka, said)  # while nobody is at work

        stop, task = watching(settings, pager, max_lag_records=200)
        await read_up_to(settings, 300)
        await until(lambda: len(pager.accepted) > 1)
        stop.set()
        await task
    states = (await read_topic(settings.kafka.bootstrap_servers, settings.kafka.topics.alerts))[0]
    told = [decode_transition(record.value) for record in states]
    assert [(each.seq, each.action) for each in told] == [(1, "fired"), (2, "acknowledged"), (3, "resolved")]
    assert {each.alert_id for each in told} == {fired["alert_id"]}


@pytest.mark.kafka
async def test_messages_refused_are_told_with_their_commonest_reason(settings: Settings) -> None:
    topics: TopicSettings = settings.kafka.topics
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka.bootstrap_servers)
    await producer.start()
    done = asyncio.Event()

    async def work() -> None:
        """Reads 200 at a time, and refuses a quarter."""
        offset = 0
        while not done.is_set():
            offset += 200
            for _ in range(200):
                await producer.send(topics.metrics, b"{}", partition=0)
            letter = dead_letter(Rejected(Record(topics.metrics, 0, offset, 0, b"k", b"v"), "too-many-entities", "Too many."))
            for _ in range(50):
                await producer.send(topics.dead_letter, letter.value, key=letter.key, headers=list(letter.headers), partition=0)
            await producer.flush()
            await read_up_to(settings, offset)

    async with HttpReceiver() as pager:
        working = asyncio.create_task(work())
        stop, task = watching(settings, pager, max_lag_records=None, max_rejected_share=0.1)
        await until(lambda: pager.accepted)
        done.set()
        await working
        (fired,) = pager.accepted[0].json()["alerts"]
        assert fired["labels"] == {"check": "rejected"}
        assert "mostly too-many-entities" in fired["reason"]
        stop.set()
        await task
    await producer.stop()
