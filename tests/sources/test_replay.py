"""Publishing data sets and this machine's metrics to a real Kafka, and reading them back to train on."""

from __future__ import annotations

import asyncio
import math
import zlib

import msgspec
import numpy as np
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from service.clock import ManualClock, SystemClock
from service.domain import Dataset, Schema, Series
from service.errors import ConfigError, DatasetError, NotEnoughData
from service.settings import Settings
from service.sources.agent import MachineReading, read_machine, run_agent, sample_machine
from service.sources.codecs.message import EARLIEST_MS
from service.sources.publisher import MetricsMessage, MetricsPublisher
from service.sources.replay import replay, time_shift
from service.sources.topic_dataset import read_topic
from service.state.topics import create_topics
from tests.sources.rig import T0, kafka_settings, message, read_all, send_raw

NAN = np.float32(np.nan)


def dataset(rows: int = 30, *, start_row: int = T0 // 1000, entities: int = 3) -> Dataset:
    """Entities of two metrics at 1 s; every seventh row is missing, every fifth lacks ``mem``."""
    series = []
    for at in range(entities):
        values = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2) + at * 1000
        values[::5, 1] = NAN
        values[::7] = NAN
        series.append(Series(f"host-{at}", start_row + at, values))
    return Dataset(Schema(("cpu", "mem"), 1000), tuple(series))


@pytest.mark.kafka
async def test_what_is_replayed_is_read_back(kafka_servers: str) -> None:
    settings = kafka_settings(kafka_servers, partitions=3)
    await create_topics(settings.kafka)
    given = dataset()
    told: list[tuple[int, int]] = []
    published = await replay(given, settings.kafka, progress=lambda _, done=0, total=0, __="": told.append((done, total)))
    assert published == sum(int(np.isfinite(one.values).any(axis=1).sum()) for one in given.series)
    assert told[-1] == (90, 90)
    records = await read_all(kafka_servers, settings.kafka.topics.metrics)
    for record in records:
        assert record.key is not None
        assert record.partition == zlib.crc32(record.key) % 3
    back = await read_topic(settings)
    assert back.schema == given.schema
    for one, other in zip(sorted(back.series, key=lambda series: series.entity), given.series, strict=True):
        # The first row is missing, as the rows 0, 7, … are, and so is every trailing one.
        last = np.flatnonzero(np.isfinite(other.values).any(axis=1))[-1] + 1
        assert (one.entity, one.start_row) == (other.entity, other.start_row + 1)
        np.testing.assert_array_equal(one.values, other.values[1:last])


@pytest.mark.kafka
async def test_the_last_part_of_a_topic_is_read_past_what_is_bad(kafka_servers: str) -> None:
    settings = kafka_settings(kafka_servers, partitions=2)
    await create_topics(settings.kafka)
    await replay(dataset(), settings.kafka)
    await send_raw(kafka_servers, settings.kafka.topics.metrics, [(b"host-0", b"?"), (None, None)])
    some = await read_topic(settings, last_records=20)
    assert 0 < some.rows <= 30
    one = await read_topic(settings, entities="host-1", interval_ms=2000)
    assert {series.entity for series in one.series} == {"host-1"}
    assert one.schema.interval_ms == 2000
    assert (await read_topic(settings, last_seconds=3600)).rows > 80
    with pytest.raises(NotEnoughData, match="no messages"):
        await read_topic(settings, last_seconds=3600, clock=ManualClock(SystemClock().now_ms() + 7_200_000))
    with pytest.raises(NotEnoughData):
        await read_topic(settings, entities="db-*")


@pytest.mark.kafka
async def test_a_topic_that_is_empty_or_missing_is_told(kafka_servers: str) -> None:
    settings = kafka_settings(kafka_servers)
    with pytest.raises(ConfigError, match="does not exist"):
        await read_topic(settings)
    with pytest.raises(ConfigError, match="does not exist"):
        await replay(dataset(), settings.kafka)
    await create_topics(settings.kafka)
    with pytest.raises(NotEnoughData):
        await read_topic(settings)
    publisher = MetricsPublisher(settings.kafka)
    await publisher.start()
    await publisher.publish([message("host-0", 0)])
    with pytest.raises(DatasetError, match="time between rows"):
        await read_topic(settings)
    with pytest.raises(ConfigError, match="too large"):
        await publisher.publish([MetricsMessage("host-0", b"x" * (20 << 20))])
    await publisher.close()


@pytest.mark.kafka
async def test_the_speed_is_kept(kafka_servers: str) -> None:
    settings = kafka_settings(kafka_servers)
    await create_topics(settings.kafka)
    clock = ManualClock(T0 + 3_600_000)
    await replay(dataset(21, entities=1), settings.kafka, speed=2.0, clock=clock)
    assert clock.monotonic() - (T0 + 3_600_000) / 1000 == pytest.approx(10, abs=0.01)  # 21 rows of a second, twice as fast


@pytest.mark.parametrize(("speed", "now_row"), [(0.0, None), (1.0, None), (10.0, None), (0.5, None)])
def test_no_event_is_published_before_it_happens(speed: float, now_row: None) -> None:
    given = dataset(100, start_row=0, entities=2)
    now = T0 + 123
    shift = time_shift(given, now_ms=now, speed=speed, rebase=False)
    for row in (0, 50, 100):
        wall = now + (row * 1000 / speed if speed else 0)
        assert (row + shift) * 1000 <= wall
    if speed != 0.5:
        last = 101 + shift
        assert abs(last * 1000 - (now + (101_000 / speed if speed else 0))) <= 2000  # and the last is not long past


def test_real_times_stay_unless_told() -> None:
    given = dataset(10)
    assert given.series[0].start_row * 1000 > EARLIEST_MS
    assert time_shift(given, now_ms=T0 * 2, speed=0, rebase=False) == 0
    assert time_shift(given, now_ms=T0 * 2, speed=0, rebase=True) > 0


def reading(at: float, busy: float, *, level: float = 0.5) -> MachineReading:
    """A machine of two cores whose counters stand at ``busy`` seconds of work and 10 × that many bytes."""
    totals = {"cpu.user": busy, "cpu.idle": at * 2 - busy, "disk.busy": busy / 2, "net.sent_bytes": busy * 10}
    return MachineReading(at, totals, {"memory.used": level}, ((at, at - busy), (at, at)))


def test_metrics_are_shares_and_rates_between_two_readings() -> None:
    sample = sample_machine(reading(10, 1), reading(12, 2, level=0.75))
    assert sample == {
        "cpu.user": 0.25,
        "cpu.idle": 0.75,
        "net.sent_bytes_s": 5.0,
        "disk.busy": 0.25,
        "cpu.busiest_core": 0.5,
        "cpu.laziest_core": 0.0,
        "memory.used": 0.75,
    }


def test_a_counter_that_fell_and_a_clock_that_stood_give_finite_metrics() -> None:
    for sample in (sample_machine(reading(10, 5), reading(12, 1)), sample_machine(reading(10, 5), reading(10, 5))):
        assert all(math.isfinite(value) and value >= 0 for value in sample.values())


def test_this_machine_gives_twenty_to_thirty_metrics() -> None:
    before = read_machine()
    sum(range(2_000_000))
    sample = sample_machine(before, read_machine())
    assert 20 <= len(sample) <= 30
    assert all(math.isfinite(value) for value in sample.values())
    assert 0 < sample["memory.used"] < 1
    assert sample["processes"] >= 1


@pytest.mark.kafka
async def test_the_agent_publishes_one_sample_a_row(kafka_servers: str) -> None:
    settings: Settings = kafka_settings(kafka_servers)
    await create_topics(settings.kafka)
    sent = await run_agent(settings.kafka, hz=20, seconds=1.5, entity="this")
    records = await read_all(kafka_servers, settings.kafka.topics.metrics)
    assert len(records) == sent == 30
    times = [msgspec.json.decode(record.value or b"")["timestamp"] for record in records]
    assert all(time % 50 == 0 for time in times)
    assert len(set(times)) == len(times)
    (series,) = (await read_topic(settings, interval_ms=50)).series
    assert series.entity == "this"


@pytest.mark.kafka
async def test_the_agent_stops_when_asked(kafka_servers: str) -> None:
    settings = kafka_settings(kafka_servers)
    await create_topics(settings.kafka)
    stop = asyncio.Event()
    running = asyncio.create_task(run_agent(settings.kafka, hz=50, stop=stop, progress=lambda *_: stop.set()))
    assert await asyncio.wait_for(running, 10) == 1


@pytest.mark.kafka
async def test_the_agent_says_so_when_its_last_samples_are_refused(kafka_servers: str) -> None:
    settings = kafka_settings(kafka_servers)
    await create_topics(settings.kafka)
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_servers)
    await admin.start()
    topic = ConfigResource(ConfigResourceType.TOPIC, settings.kafka.topics.metrics, configs={"max.message.bytes": "100"})
    await admin.alter_configs([topic])
    await admin.close()
    with pytest.raises(ConfigError, match="too large"):
        await run_agent(settings.kafka, hz=20, seconds=0.05)  # one sample: the sender fails while the queue is drained
