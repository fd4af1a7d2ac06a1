"""A batch's outputs, state and offset reach Kafka together or not at all, and a fenced process writes nothing."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from service.alerts.topics.transitions import encode_transition
from service.domain import Alert, Record, Rejected, Severity, Status
from service.errors import ConfigError, Stop
from service.kafka_options import Commit
from service.local.stack import LocalStack
from service.settings import Settings
from service.state import entity_records, takeover, transactions
from service.state.dead_letter import TRUNCATED
from service.state.entity_records import BUCKETS, PAGE_BYTES, EntityRecords, bucket_of
from service.state.topics import create_topics
from service.state.transactions import PartitionOutcome, TransactionalOutbox
from tests.sources.rig import kafka_settings


def alert(seq: int) -> Alert:
    return Alert(
        alert_id="a" * 32, seq=seq, action="updated", reason="still unusual", entity="host-1", status=Status.FIRING,
        severity=Severity.INFO, peak_severity=Severity.INFO, started_at=1, updated_at=seq, score=0.5, peak_score=0.5, p=0.001,
        peak_p=0.001,
    )  # fmt: skip


def refused(offset: int, value: bytes, partition: int = 0) -> Rejected:
    return Rejected(Record("metrics", partition, offset, 0, b"host-1", value), "not-json", "The message is not JSON.")


async def opened(settings: Settings, *partitions: int) -> TransactionalOutbox:
    await create_topics(settings.kafka)
    outbox = TransactionalOutbox(settings.kafka, encode=encode_transition)
    await outbox.start()
    await outbox.take_over(partitions)
    return outbox


async def visible(servers: str, topic: str) -> list[Any]:
    """What a reader of committed records sees, by partition and offset."""
    consumer: Any = AIOKafkaConsumer(bootstrap_servers=servers, isolation_level="read_committed", auto_offset_reset="earliest")
    await consumer.start()
    try:
        await consumer._client.force_metadata_update()
        await consumer._client._wait_on_metadata(topic)
        tps = [TopicPartition(topic, at) for at in sorted(consumer.partitions_for_topic(topic))]
        end = await consumer.end_offsets(tps)
        consumer.assign(tps)
        found: list[Any] = []
        for tp in tps:
            while await consumer.position(tp) < end[tp]:
                found += (await consumer.getmany(tp, timeout_ms=200)).get(tp, [])
        return found
    finally:
        await consumer.stop()


async def sequence(servers: str, settings: Settings) -> list[int]:
    return [msgspec.json.decode(one.value, type=Alert).seq for one in await visible(servers, settings.kafka.topics.alerts)]


@pytest.mark.kafka
async def test_everything_of_a_partition_is_committed_together(kafka_servers: str) -> None:
    settings = kafka_settings(kafka_servers, partitions=3)
    outbox = await opened(settings, 0, 2)
    try:
        many = range(1, 1201)
        letters = [refused(at, b"?" * at) for at in range(3)]
        first = PartitionOutcome([alert(seq) for seq in many], letters, {b"0007": b"seven", b"0001": b"one"}, Commit(9, 4))
        assert await outbox.emit({0: first, 2: PartitionOutcome(commit=Commit(5, 5))}) == set()
        assert await outbox.emit({0: PartitionOutcome(state={b"0001": None}), 2: PartitionOutcome()}) == set()
    finally:
        await outbox.close()
    written = await visible(kafka_servers, settings.kafka.topics.alerts)
    assert [msgspec.json.decode(one.value, type=Alert) for one in written] == [alert(seq) for seq in many]
    assert {(one.partition, one.key) for one in written} == {(0, b"a" * 32)}
    dead = await visible(kafka_servers, settings.kafka.topics.dead_letter)
    assert [(one.partition, one.value) for one in dead] == [(0, b"?" * at) for at in range(3)]
    state = await visible(kafka_servers, settings.kafka.topics.state)
    assert [(one.partition, one.key, one.value) for one in state] == [
        (0, b"0007", b"seven"),
        (0, b"0001", b"one"),
        (0, b"0001", None),
    ]
    second = await opened(settings)
    try:
        found = await second.take_over([0, 1, 2])
    finally:
        await second.close()
    assert {at: one.commit for at, one in found.items()} == {0: Commit(9, 4), 1: None, 2: Commit(5, 5)}
    assert {at: one.state for at, one in found.items()} == {0: {b"0007": b"seven"}, 1: {}, 2: {}}


@pytest.mark.kafka
async def test_the_old_owner_writes_nothing_once_another_took_over(kafka_servers: str) -> None:
    settings = kafka_settings(kafka_servers, partitions=2)
    old = await opened(settings, 0, 1)
    new = TransactionalOutbox(settings.kafka, encode=encode_transition)
    await new.start()
    try:
        assert await old.emit({0: PartitionOutcome([alert(1)], state={b"1": b"old"}, commit=Commit(1))}) == set()
        assert (await new.take_over([0]))[0].commit == Commit(1, 1)
        late = PartitionOutcome([alert(2)], [refused(1, b"?")], {b"1": b"late"}, Commit(2))
        assert await old.emit({0: late, 1: PartitionOutcome([alert(10)], commit=Commit(1))}) == {0}  # only the partition it lost
        assert await new.emit({0: PartitionOutcome([alert(3)], state={b"2": b"new"}, commit=Commit(2))}) == set()
        assert await sequence(kafka_servers, settings) in ([1, 10, 3], [1, 3, 10])
        found = (await old.take_over([0]))[0]  # and back again
        assert (found.commit, found.state) == (Commit(2, 2), {b"1": b"old", b"2": b"new"})
        assert await new.emit({0: PartitionOutcome([alert(4)])}) == {0}
        assert await visible(kafka_servers, settings.kafka.topics.dead_letter) == []
    finally:
        await old.close()
        await new.close()
        gc.collect()  # aiokafka leaves failed futures behind; they complain now instead of while something else is going on


@pytest.mark.kafka
async def test_being_fenced_between_two_topics_of_a_batch_loses_the_partition_only(
    kafka_servers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = kafka_settings(kafka_servers, partitions=1)
    old, new = await opened(settings, 0), TransactionalOutbox(settings.kafka, encode=encode_transition)
    await new.start()
    producer = old._producers[0]._producer
    send = producer.send_batch

    async def fenced_meanwhile(*args: Any, **kwargs: Any) -> Any:
        arriving = await send(*args, **kwargs)
        await new.take_over([0])
        await asyncio.wait([arriving])
        return arriving

    monkeypatch.setattr(producer, "send_batch", fenced_meanwhile)
    try:
        assert await old.emit({0: PartitionOutcome([alert(1)], state={b"1": b"late"}, commit=Commit(1))}) == {0}
        assert await sequence(kafka_servers, settings) == []
    finally:
        await old.close()
        await new.close()
        gc.collect()  # aiokafka leaves failed futures behind; they complain now instead of while something else is going on


@pytest.mark.kafka
async def test_what_was_written_but_not_committed_never_was(kafka_servers: str) -> None:
    settings = kafka_settings(kafka_servers, partitions=1)
    old = await opened(settings, 0)
    producer = old._producers[0]._producer
    await producer.begin_transaction()
    await producer.send_and_wait(settings.kafka.topics.alerts, msgspec.json.encode(alert(1)), partition=0)
    await producer.send_and_wait(settings.kafka.topics.state, b"half", key=b"0001", partition=0)
    await producer.send_offsets_to_transaction({TopicPartition(settings.kafka.topics.metrics, 0): (7, "")}, old._group)
    # dies here, without a word
    new = TransactionalOutbox(settings.kafka, encode=encode_transition)
    await new.start()
    try:
        found = (await new.take_over([0]))[0]
        assert (found.commit, found.state) == (None, {})
        assert await new.emit({0: PartitionOutcome([alert(2)], commit=Commit(3))}) == set()
        assert await sequence(kafka_servers, settings) == [2]
    finally:
        await new.close()
        await old.close()


@pytest.mark.kafka
async def test_nothing_can_be_committed_behind_the_back_of_who_takes_over(
    kafka_servers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of the steps: the moment offsets or state are read, the old owner is fenced already."""
    settings = kafka_settings(kafka_servers, partitions=1)
    old = await opened(settings, 0)
    new = TransactionalOutbox(settings.kafka, encode=encode_transition)
    await new.start()
    assert await old.emit({0: PartitionOutcome([alert(1)], state={b"1": b"first"}, commit=Commit(1))}) == set()
    refused_then: list[str] = []

    def tried_around(name: str) -> None:
        original = getattr(takeover, name)

        async def replacement(*args: Any) -> Any:
            for when in (f"before {name}", f"after {name}"):
                if when.startswith("after"):
                    result = await original(*args)
                if await old.emit({0: PartitionOutcome([alert(2)], state={b"1": b"late"}, commit=Commit(2))}) == {0}:
                    refused_then.append(when)
            return result

        monkeypatch.setattr(takeover, name, replacement)

    tried_around("read_commits")
    tried_around("read_state")
    try:
        found = (await new.take_over([0]))[0]
        assert (found.commit, found.state) == (Commit(1, 1), {b"1": b"first"})
        assert refused_then == ["before read_commits", "after read_commits", "before read_state", "after read_state"]
        assert await sequence(kafka_servers, settings) == [1]
    finally:
        await old.close()
        await new.close()


@pytest.mark.kafka
async def test_a_letter_larger_than_the_topic_takes_is_cut(kafka_servers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = kafka_settings(kafka_servers)
    outbox = await opened(settings, 0)
    monkeypatch.setattr(transactions, "LARGEST_REQUEST", 1 << 20)
    try:
        assert await outbox.emit({0: PartitionOutcome(rejected=[refused(0, b"x" * (2 << 20))])}) == set()
        (letter,) = await visible(kafka_servers, settings.kafka.topics.dead_letter)
        assert dict(letter.headers)[TRUNCATED] == str(2 << 20).encode()
    finally:
        await outbox.close()


@pytest.mark.kafka
async def test_topics_that_do_not_fit_are_told_at_the_start(kafka_servers: str) -> None:
    missing = TransactionalOutbox(kafka_settings(kafka_servers).kafka, encode=encode_transition)
    with pytest.raises(ConfigError, match="does not exist") as error:
        await missing.start()
    assert "tidewatch setup" in error.value.hint
    wide, narrow = kafka_settings(kafka_servers, partitions=3).kafka, kafka_settings(kafka_servers, partitions=2).kafka
    await create_topics(wide)
    await create_topics(narrow)
    mixed = wide.model_copy(update={"topics": wide.topics.model_copy(update={"state": narrow.topics.state})})
    with pytest.raises(ConfigError, match=r"has 2 partitions, .* has 3"):
        await TransactionalOutbox(mixed, encode=encode_transition).start()


@pytest.fixture
def own_stack(tmp_path: Any, kafka_servers: str) -> Iterator[LocalStack]:  # kafka_servers: skips where no Kafka can be had
    stack = LocalStack(tmp_path)
    stack.start_kafka()
    yield stack
    stack.down()


@pytest.mark.kafka
@pytest.mark.slow
async def test_an_outage_ends_the_wait_and_taking_over_shows_what_arrived(own_stack: LocalStack) -> None:
    servers = own_stack.kafka_servers
    settings = kafka_settings(servers, request_timeout_seconds=2.0, connect_timeout_seconds=60.0)
    outbox = await opened(settings, 0)
    try:
        assert await outbox.emit({0: PartitionOutcome([alert(1)], commit=Commit(1))}) == set()
        await asyncio.to_thread(own_stack.stop_kafka, kill=True)
        tried = PartitionOutcome([alert(seq) for seq in range(2, 30)], [refused(0, b"?")], {b"1": b"x"}, Commit(2))
        async with asyncio.timeout(30):  # an upper bound against hanging, not a speed
            assert await outbox.emit({0: tried}) == {0}
        await asyncio.to_thread(own_stack.start_kafka)
        found = (await outbox.take_over([0]))[0]
        if found.commit == Commit(1, 1):  # as a rule: nothing of it arrived
            assert found.state == {}
            assert await outbox.emit({0: tried}) == set()
        assert await sequence(servers, settings) == list(range(1, 30))
    finally:
        await outbox.close()


def test_only_the_buckets_that_changed_are_written() -> None:
    book = EntityRecords()
    names = [f"host-{at}" for at in range(3000)]
    records = book.change(0, {name: msgspec.msgpack.encode(name) for name in names})
    assert set(records) == {b"%05d" % bucket_of(name) for name in names}
    changed = book.change(0, {"host-7": msgspec.msgpack.encode(7)})
    assert list(changed) == [b"%05d" % bucket_of("host-7")]
    known = {key: value for key, value in (records | changed).items() if value is not None}
    other = EntityRecords()
    assert other.load(0, known) == {name: msgspec.msgpack.encode(7 if name == "host-7" else name) for name in names}
    assert sorted(other.entities(0)) == sorted(names)
    alone = [name for name in names if sum(bucket_of(name) == bucket_of(other) for other in names) == 1]
    assert other.change(0, {alone[0]: None, "never seen": None}) == {b"%05d" % bucket_of(alone[0]): None}
    other.drop(0)
    assert other.entities(0) == []


def test_names_chosen_to_fall_into_one_bucket_make_no_record_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every record stays far below what Kafka takes, whatever is put in, changed and removed; and nothing is forgotten."""
    monkeypatch.setattr(entity_records, "BUCKETS", 1000)  # such names are then found sooner
    names = [name for at in range(400_000) if bucket_of(name := f"host-{at}") == 7]
    chance = random.Random(3)
    book, held, topic = EntityRecords(), dict[str, bytes](), dict[bytes, bytes]()
    for _ in range(300):
        memories: dict[str, bytes | None] = {}
        for name in chance.sample(names, 20):
            size = chance.choice((10, 200, 20_000, PAGE_BYTES // 2))
            memories[name] = None if chance.random() < 0.3 else msgspec.msgpack.encode(chance.randbytes(size))
        for key, value in book.change(0, memories).items():
            if value is None:
                topic.pop(key, None)
            else:
                assert len(value) < 2 * PAGE_BYTES
                topic[key] = value
        held = {name: memory for name, memory in (held | memories).items() if memory is not None}
    assert len(topic) > 5
    again = EntityRecords()
    assert again.load(0, topic) == held
    assert sorted(again.entities(0)) == sorted(held)
    one = next(iter(held))
    assert again.change(0, {one: held[one]}).keys() == {key for key, value in topic.items() if one.encode() in value}
    large = EntityRecords().change(0, {names[0]: msgspec.msgpack.encode(bytes(3 * PAGE_BYTES)), names[1]: b"\x00"})
    assert sorted(len(value or b"") > PAGE_BYTES for value in large.values()) == [False, True]


def test_entities_of_one_bucket_come_due_on_the_same_rows() -> None:
    import zlib

    for stride in (1, 2, 5, 10, 20, 25, 50):
        assert BUCKETS % stride == 0
        phases = {(bucket_of(name), zlib.crc32(name.encode()) % stride) for name in (f"host-{at}" for at in range(5000))}
        assert len(phases) == len({bucket for bucket, _ in phases})


@pytest.mark.parametrize(
    "value", [b"", b"junk", msgspec.msgpack.encode({"v": 99, "entities": {}}), msgspec.msgpack.encode({"v": 1})]
)
def test_a_state_that_cannot_be_read_ends_the_process_with_a_sentence(value: bytes) -> None:
    with pytest.raises(Stop, match="The state of partition 3") as error:
        EntityRecords().load(3, {b"0001": value})
    assert "kafka.topics.state" in error.value.hint
