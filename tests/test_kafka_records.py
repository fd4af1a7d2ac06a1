"""A record costs at most itself, whatever stands in its headers and whatever the client makes of it. Against a real Kafka."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from hypothesis import given
from hypothesis import strategies as st

from service import kafka_records
from service.alerts.control.topic import ControlReader
from service.kafka_options import kafka_client_options
from service.kafka_records import _GuardedRecords
from service.observability.metrics import UNREADABLE
from service.state.topics import create_topics
from tests.alerts.makers import background_tasks
from tests.sources.rig import Worker, kafka_settings, message, read_all


class Raw(str):
    """A header's name whose bytes are not UTF-8."""

    __slots__ = ()

    def encode(self, *_: Any) -> bytes:
        return b"\xff\xfe" + str.encode(self)


async def publish(servers: str, topic: str, records: list[tuple[bytes | None, bytes | None, list[Any]]], **told: Any) -> None:
    producer: Any = AIOKafkaProducer(bootstrap_servers=servers, max_request_size=128 << 20, compression_type="lz4", **told)
    await producer.start()
    try:
        for key, value, headers in records:
            await producer.send_and_wait(topic, value, key=key, headers=headers, partition=0)
    finally:
        await producer.stop()


@pytest.fixture
def python_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    """aiokafka's compiled writer encodes names itself; the one in Python asks ``Raw``."""
    from aiokafka.producer import message_accumulator, producer
    from aiokafka.record import default_records

    for module in (message_accumulator, producer):
        monkeypatch.setattr(module, "DefaultRecordBatchBuilder", default_records._DefaultRecordBatchBuilderPy)


@pytest.mark.kafka
@pytest.mark.usefixtures("python_writer")
async def test_headers_of_every_kind_cost_at_most_their_record(kafka_servers: str) -> None:
    settings = kafka_settings(kafka_servers, partitions=1)
    await create_topics(settings.kafka)
    good = [message("host-1", row) for row in range(12)]
    odd: list[list[Any]] = [
        [("h", None)],
        [(Raw("h"), b"1")],
        [("tidewatch.reason", b"\0" * (70 << 20))],
        [("__streams.errors.topic", None)],
    ]
    sent: list[Any] = [(b"host-1", one.value, odd[at % 2]) for at, one in enumerate(good)] + [
        (b"x", b"garbage", headers) for headers in odd
    ]
    await publish(kafka_servers, settings.kafka.topics.metrics, sent)
    worker = await Worker(settings).start()
    try:
        await worker.until(lambda: worker.consumed >= len(sent), 60)
    finally:
        await worker.stop()
    assert worker.due == [("host-1", row) for row in range(4, 12)]
    letters = await read_all(kafka_servers, settings.kafka.topics.dead_letter)
    assert [letter.value for letter in letters] == [b"garbage"] * 4
    for letter in letters:
        names = [name for name, _ in letter.headers]
        assert len(names) == len(set(names))
        assert dict(letter.headers)["tidewatch.reason"] == b"not-json"
        assert dict(letter.headers)["__streams.errors.topic"] == settings.kafka.topics.metrics.encode()
    assert dict(letters[0].headers)["h"] is None


@pytest.mark.kafka
@pytest.mark.usefixtures("python_writer")
async def test_the_control_reader_goes_on_behind_a_record_that_is_no_command(kafka_servers: str) -> None:
    settings = kafka_settings(kafka_servers, partitions=1)
    await create_topics(settings.kafka)
    dropped: list[str] = []
    reader = ControlReader(settings.kafka, lambda _: None, background_tasks(), on_dropped=dropped.extend)
    await reader.start()
    try:
        records: list[Any] = [(b"\xff", None, [(Raw("h"), None)]), (b"k", b"{", [(Raw("h"), b"1")]), (b"gone", None, [])]
        await publish(kafka_servers, settings.kafka.topics.control, records)
        async with asyncio.timeout(30):
            while dropped != ["gone"]:
                await asyncio.sleep(0.05)
    finally:
        await reader.close()


@pytest.mark.kafka
async def test_every_consumer_of_ours_reads_through_the_guard(kafka_servers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = kafka_settings(kafka_servers, partitions=1)
    await create_topics(settings.kafka)
    seen: list[Any] = []
    kept = kafka_records._GuardedPartition.__init__

    def noted(self: Any, tp: Any, records: Any, *further: Any) -> None:
        seen.append((tp, type(records)))
        kept(self, tp, records, *further)

    monkeypatch.setattr(kafka_records._GuardedPartition, "__init__", noted)
    await publish(kafka_servers, settings.kafka.topics.metrics, [(b"k", b"v", [])])
    consumer: Any = AIOKafkaConsumer(auto_offset_reset="earliest", **kafka_client_options(settings.kafka))
    await consumer.start()
    try:
        where = TopicPartition(settings.kafka.topics.metrics, 0)
        consumer.assign([where])
        assert (await consumer.getone()).value == b"v"
    finally:
        await consumer.stop()
    assert seen == [(where, _GuardedRecords)]


RECORDS = st.lists(
    st.tuples(
        st.integers(0, 2**41),
        st.none() | st.binary(max_size=20),
        st.none() | st.binary(max_size=20),
        st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=5)), max_size=3),
    ),
    min_size=1,
    max_size=6,
)


@given(RECORDS, st.sampled_from([0, 1, 3]), st.data())
def test_whatever_the_bytes_of_a_batch_reading_ends_and_the_undamaged_are_read_as_they_are(
    records: list[Any], compression: int, data: st.DataObject
) -> None:
    builder = DefaultRecordBatchBuilder(2, compression, 0, -1, -1, 0, 1 << 20)
    for at, (timestamp, key, value, headers) in enumerate(records):
        builder.append(at, timestamp, key, value, headers)
    whole = bytes(builder.build())
    read = [(one.offset, one.timestamp, one.key, one.value, list(one.headers)) for one in _batch(whole)]
    assert read == [(at, *record) for at, record in enumerate(records)]
    again = [(one.offset, one.timestamp, one.key, one.value, list(one.headers)) for one in _batch(whole)._one_by_one(ValueError())]
    assert again == read
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(61, len(whole) - 1))] = data.draw(st.integers(0, 255))
    before = UNREADABLE.labels("t")._value.get()
    found = list(_batch(bytes(damaged)))
    assert len(found) >= len(records) or UNREADABLE.labels("t")._value.get() > before


def _batch(raw: bytes) -> Any:
    batches = _GuardedRecords(raw)
    batches.source = TopicPartition("t", 0)
    return batches.next_batch()
