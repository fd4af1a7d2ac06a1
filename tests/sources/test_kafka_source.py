"""The source and the outbox on a real Kafka: restarts, rebalances, garbage."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from service.errors import BrokerUnavailable, ConfigError
from service.kafka_options import Commit
from service.local.stack import LocalStack
from service.settings import KafkaSettings, StreamSettings
from service.sources.publisher import MetricsMessage, MetricsPublisher, partition_of
from service.state.topics import create_topics
from tests.sources.rig import T0, Worker, kafka_settings, message, read_all, send_raw

pytestmark = pytest.mark.kafka
ENTITIES = [f"host-{at}" for at in range(6)]


async def publish(kafka: KafkaSettings, rows: range, entities: list[str] | None = None) -> None:
    publisher = MetricsPublisher(kafka)
    await publisher.start()
    await publisher.publish([message(entity, row) for row in rows for entity in entities or ENTITIES])
    await publisher.close()


async def test_what_kafka_does_not_take_is_told_once(kafka_servers: str) -> None:
    settings = kafka_settings(kafka_servers)
    await create_topics(settings.kafka)
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    publisher = MetricsPublisher(settings.kafka)
    await publisher.start()
    assert {partition_of(entity, 2) for entity in ENTITIES} == {0, 1}
    with pytest.raises(ConfigError, match="too large"):
        await publisher.publish([MetricsMessage(entity, b"x" * (20 << 20)) for entity in ENTITIES])
    await publisher.close()
    gc.collect()  # asyncio complains of a failure nobody looked at when it is collected
    assert not complaints


def windows_of(rows: range, *, window: int = 5) -> Counter[tuple[str, int]]:
    """What must come due of rows without gaps, at stride 1."""
    return Counter((entity, end) for entity in ENTITIES for end in rows if end >= window - 1)


async def test_every_window_comes_once_and_the_lag_falls_to_nothing(kafka_servers: str) -> None:
    settings = kafka_settings(kafka_servers)
    await create_topics(settings.kafka)
    await publish(settings.kafka, range(50))
    worker = await Worker(settings).start()
    try:
        await worker.until(lambda: worker.consumed == 300)
        assert Counter(worker.due) == windows_of(range(50))
        await worker.until(lambda: worker.source.lag() == {0: 0, 1: 0})
        batch = worker.windows[0]
        assert batch.topic == settings.kafka.topics.metrics
        assert set(batch.partitions.tolist()) <= {0, 1}
        assert all(partition_of(entity, 2) == at for entity, at in zip(batch.entities, batch.partitions.tolist(), strict=True))
    finally:
        await worker.stop()


async def test_what_waited_for_the_last_batch_is_joined_by_what_is_newer(kafka_servers: str) -> None:
    settings = kafka_settings(kafka_servers, stream=StreamSettings(max_delay_ms=5000))
    await create_topics(settings.kafka)
    worker, batches, working = Worker(settings), [], asyncio.Event()

    async def slow() -> None:
        batches.append(worker.consumed)
        await working.wait()

    worker.before_emit = slow
    await publish(settings.kafka, range(1), ["host-0"])
    await worker.start()
    try:
        await worker.until(lambda: len(batches) == 1)
        await publish(settings.kafka, range(1, 2), ["host-0"])
        await asyncio.sleep(1.0)  # it lies in aiokafka's buffer now, and no newer is asked for
        await publish(settings.kafka, range(2, 3), ["host-0"])
        working.set()
        await worker.until(lambda: worker.consumed == 3)
        assert len(batches) == 2
    finally:
        await worker.stop()


async def test_a_restart_refills_and_scores_nothing_twice(kafka_servers: str) -> None:
    settings = kafka_settings(kafka_servers)
    await create_topics(settings.kafka)
    await publish(settings.kafka, range(30))
    first = await Worker(settings).start()
    await first.until(lambda: first.consumed == 180)
    await first.stop()
    await publish(settings.kafka, range(30, 33))
    second = await Worker(settings).start()
    try:
        await second.until(lambda: second.consumed - second.refilled == 18)
    finally:
        await second.stop()
    assert second.refilled > 0
    assert Counter(first.due) + Counter(second.due) == windows_of(range(33))
    values = np.concatenate([batch.values for batch in second.windows])
    assert np.isfinite(values).all()  # the refilled windows are whole


async def test_a_killed_worker_repeats_at_most_its_last_batch(kafka_servers: str) -> None:
    settings = kafka_settings(kafka_servers, stream=StreamSettings(max_batch_records=30))
    await create_topics(settings.kafka)
    await publish(settings.kafka, range(40))
    first = Worker(settings)
    stuck = asyncio.Event()

    async def hang_after_100() -> None:
        if first.consumed >= 100:
            stuck.set()
            await asyncio.sleep(3600)

    first.before_emit = hang_after_100
    await first.start()
    await asyncio.wait_for(stuck.wait(), 30)
    await first.kill()
    second = await Worker(settings).start()
    try:
        await second.until(lambda: set(first.due) | set(second.due) == set(windows_of(range(40))))
    finally:
        await second.stop()
    # What the first one had emitted was committed, and what it had not is emitted now: nothing twice, nothing lost.
    assert Counter(first.due) + Counter(second.due) == windows_of(range(40))


async def test_two_workers_share_the_partitions_and_one_takes_over(kafka_servers: str) -> None:
    settings = kafka_settings(kafka_servers, partitions=4)
    await create_topics(settings.kafka)
    await publish(settings.kafka, range(20))
    one = await Worker(settings).start()
    await one.until(lambda: one.consumed == 120)
    two = await Worker(settings).start()
    await two.until(lambda: two.batches > 0 and bool(two.source._resume_at) and len(one.source._resume_at) == 2)
    assert len(two.source._resume_at) == 2
    await publish(settings.kafka, range(20, 40))
    await one.until(lambda: len(set(one.due) | set(two.due)) == 6 * 36)
    assert two.due
    await two.stop()
    await publish(settings.kafka, range(40, 50))
    await one.until(lambda: len(set(one.due) | set(two.due)) == 6 * 46)
    await one.stop()
    assert Counter(one.due) + Counter(two.due) == windows_of(range(50))


async def test_partitions_that_come_straight_back_keep_their_windows(kafka_servers: str) -> None:
    settings = kafka_settings(kafka_servers, partitions=2)
    await create_topics(settings.kafka)
    await publish(settings.kafka, range(20))
    one = await Worker(settings).start()
    await one.until(lambda: one.consumed == 120 and one.source.lag() == {0: 0, 1: 0})
    two = await Worker(settings).start()
    await one.until(lambda: len(one.source._resume_at) == 1 and len(two.source._resume_at) == 1)
    kept = next(iter(one.source._resume_at))
    assert kept not in one.dropped
    assert one.refilled == 0
    await two.stop()
    await one.stop()


async def test_the_rewind_is_capped(kafka_servers: str) -> None:
    settings = kafka_settings(kafka_servers, partitions=1, stream=StreamSettings(max_rewind_records=7))
    await create_topics(settings.kafka)
    await publish(settings.kafka, range(30))
    first = await Worker(settings).start()
    await first.until(lambda: first.consumed == 180)
    await first.stop()
    await publish(settings.kafka, range(30, 31))
    second = await Worker(settings).start()
    await second.until(lambda: second.consumed - second.refilled == 6)
    await second.stop()
    assert second.refilled == 7


async def test_bad_records_go_to_the_dead_letter_unchanged_and_the_stream_goes_on(kafka_servers: str) -> None:
    settings = kafka_settings(kafka_servers, partitions=1)
    await create_topics(settings.kafka)
    topic = settings.kafka.topics.metrics
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_servers)
    await admin.start()
    await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs={"max.message.bytes": str(32 << 20)})])
    await admin.close()
    huge = b"\x00\xff{" * (10 << 20 >> 1)
    good = [message("host-0", row) for row in range(6)]
    bad: list[tuple[bytes | None, bytes | None, str]] = [
        (b"host-0", b"not json", "not-json"),
        (b"host-0", b"", "not-json"),
        (b"host-0", None, "not-json"),
        (None, None, "not-json"),
        (None, b'{"timestamp": 1}', "bad-entity"),
        (b"host-0", message("host-9", 0).value, "key-mismatch"),
        (b"\xff", message("host-9", 0).value, "key-mismatch"),
        (b"host-0", b'{"timestamp": "yesterday", "values": {"cpu": 1}}', "bad-timestamp"),
        (b"host-0", b'{"timestamp": %d, "values": [1, 2, 3]}' % T0, "unknown-shape"),
        (b"host-0", b'{"timestamp": %d, "values": {"cpu": NaN}}' % T0, "not-finite"),
        (b"host-0", b'{"timestamp": 99999999999999, "values": {"cpu": 1}}', "too-far-ahead"),
        (b"host-0", huge, "too-large"),
    ]
    await send_raw(kafka_servers, topic, [(b"host-0", one.value) for one in good])
    await send_raw(kafka_servers, topic, [(key, value) for key, value, _ in bad])
    await send_raw(kafka_servers, topic, [(b"host-0", message("host-0", row).value) for row in (6, 7)])
    worker = await Worker(settings).start()
    try:
        await worker.until(lambda: worker.consumed == 8 + len(bad))
    finally:
        await worker.stop()
    assert worker.due == [("host-0", row) for row in (4, 5, 6, 7)]
    letters = await read_all(kafka_servers, settings.kafka.topics.dead_letter)
    # A record without key and value is the one that the client cannot write as it was.
    assert [(one.key, one.value) for one in letters] == [(key, value if key or value else value or b"") for key, value, _ in bad]
    headers = [{name: content or b"" for name, content in one.headers} for one in letters]
    assert [told["tidewatch.reason"].decode() for told in headers] == [reason for _, _, reason in bad]
    for at, told in enumerate(headers):
        assert told["__streams.errors.topic"].decode() == topic
        assert told["__streams.errors.partition"] == b"0"
        assert int(told["__streams.errors.offset"]) == 6 + at
        assert told["__streams.errors.message"]


async def test_an_entity_on_two_partitions_is_refused_by_name(kafka_servers: str) -> None:
    settings = kafka_settings(kafka_servers, partitions=2)
    await create_topics(settings.kafka)
    topic = settings.kafka.topics.metrics
    worker = await Worker(settings).start()
    try:
        await send_raw(kafka_servers, topic, [(b"host-0", message("host-0", 0).value)], partition=0)
        await worker.until(lambda: worker.consumed == 1)
        await send_raw(kafka_servers, topic, [(None, message("host-0", 1).value)], partition=1)
        await worker.until(lambda: worker.consumed == 2)
    finally:
        await worker.stop()
    (letter,) = await read_all(kafka_servers, settings.kafka.topics.dead_letter)
    assert dict(letter.headers)["tidewatch.reason"] == b"split-entity"
    assert b"host-0" in (dict(letter.headers)["__streams.errors.message"] or b"")
    assert letter.partition == 1


async def test_a_topic_that_does_not_exist_is_told_before_anything_starts(kafka_servers: str) -> None:
    settings = kafka_settings(kafka_servers)
    source = Worker(settings).source
    with pytest.raises(ConfigError, match=r"The topic 'metrics-.*' does not exist"):
        await source.start()
    await source.close()


async def test_a_broker_that_is_not_there_is_told_in_one_sentence() -> None:
    settings = kafka_settings("127.0.0.1:1", connect_timeout_seconds=0.5)
    source = Worker(settings).source
    with pytest.raises(BrokerUnavailable, match=r"Kafka at 127\.0\.0\.1:1 does not answer"):
        await source.start()


@pytest.mark.parametrize("commit", [Commit(0), Commit(5, 3), Commit(10**18, 10**18 - 1), Commit(7, None)])
def test_commit_metadata_has_one_size_and_comes_back(commit: Commit) -> None:
    assert len(commit.metadata) == len(Commit(1, 1).metadata)
    back = Commit.read(commit.offset, commit.metadata)
    assert back.offset == commit.offset
    assert back.oldest == (commit.offset if commit.oldest is None else commit.oldest)


@pytest.mark.parametrize("foreign", ["", "leader-epoch", "oldest=", "oldest=-4", "oldest=9999"])
def test_metadata_of_someone_else_means_no_rewind(foreign: str) -> None:
    assert Commit.read(40, foreign) == Commit(40, 40)


@pytest.mark.slow
async def test_an_outage_loses_and_repeats_nothing_and_stopping_during_one_is_bounded(tmp_path: Path, kafka_servers: str) -> None:
    stack = LocalStack(tmp_path)  # kafka_servers: skips where no Kafka can be had
    await asyncio.to_thread(stack.start_kafka)
    try:
        settings = kafka_settings(stack.kafka_servers, request_timeout_seconds=2.0, connect_timeout_seconds=3.0)
        await create_topics(settings.kafka)
        await publish(settings.kafka, range(20))
        worker = await Worker(settings).start()
        await worker.until(lambda: worker.consumed == 120)
        before = len(worker.due)
        await asyncio.to_thread(stack.stop_kafka, kill=True)
        batches = worker.batches
        await worker.until(lambda: worker.batches > batches + 3)  # it goes on turning, and its health stays live
        await asyncio.to_thread(stack.start_kafka)
        await publish(settings.kafka, range(20, 30))
        await worker.until(lambda: len(worker.due) >= 6 * 26, 90)
        assert len(worker.due) > before
        assert Counter(worker.due) == windows_of(range(30))
        await asyncio.to_thread(stack.stop_kafka, kill=True)
        await asyncio.wait_for(worker.stop(), 40)  # an upper bound against hanging, not a speed
    finally:
        await asyncio.to_thread(stack.down)
