"""Twenty thousand hostile records: through every codec in process, and through a real Kafka."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from service.app import CODECS
from service.clock import ManualClock
from service.domain import Record
from service.settings import StreamSettings
from service.sources.codecs.message import encode
from service.sources.codecs.native import NativeCodec
from service.state.topics import create_topics
from service.stream.processor import StreamProcessor
from tests.hostile.messages import NOW, hostile
from tests.hostile.run import interleaved, run, trained
from tests.sources.rig import SCHEMA, Worker, kafka_settings, read_all

REASONS = {
    "not-json", "too-large", "not-finite", "wrong-type", "key-mismatch", "bad-entity", "bad-timestamp", "too-far-ahead",
    "unknown-shape", "bad-labels", "unknown-entity",
}  # fmt: skip


@pytest.mark.parametrize("codec", sorted(CODECS))
async def test_every_record_is_a_sample_or_a_dead_letter_and_the_good_ones_do_not_notice(codec: str) -> None:
    report = await run(codec, trained(3, quick=True), seed=7, count=20_000, made=1500, share=0.3)
    print(f"{report.good_us:.1f} µs a good record, {report.hostile_us:.1f} a hostile one")
    assert report.hostile == 20_000
    assert (report.lost, report.good_refused, report.windows_differ) == (0, 0, 0)
    assert report.dead_letters + report.accepted == report.hostile
    assert report.windows > 1000
    assert report.reasons.keys() >= REASONS
    assert report.accepted > 100  # some of what was made is good by chance: the generator is near to what is read


async def _publish(servers: str, topic: str, records: list[Record]) -> None:
    producer: Any = AIOKafkaProducer(bootstrap_servers=servers, max_request_size=32 << 20, max_batch_size=4 << 20)
    await producer.start()
    try:
        waiting = list(reversed(records))
        while waiting:
            batch = producer.create_batch()
            while (
                waiting
                and batch.append(key=waiting[-1].key, value=waiting[-1].value, timestamp=None, headers=list(waiting[-1].headers))
                is not None
            ):
                waiting.pop()
            await (await producer.send_batch(batch, topic, partition=0))
    finally:
        await producer.stop()


@pytest.mark.kafka
@pytest.mark.slow
async def test_through_kafka_exactly_the_refused_records_lie_in_the_dead_letter_topic(kafka_servers: str) -> None:
    limits = StreamSettings(max_entities=5000)
    told = kafka_settings(kafka_servers, partitions=1, stream=limits)
    await create_topics(told.kafka)
    values = [{"cpu": chance.random(), "mem": chance.random()} for chance in [random.Random(1)] for _ in range(5000)]
    good = [
        Record("", 0, 0, 0, b"good-%d" % (at % 10), encode(f"good-{at % 10}", NOW + at // 10 * 1000, told_values))
        for at, told_values in enumerate(values)
    ]
    sent = interleaved(good, list(hostile(11, 20_000, 1000, limits)))
    await _publish(kafka_servers, told.kafka.topics.metrics, sent)
    worker = Worker(told, window=20, stride=5)
    worker.processor = StreamProcessor(SCHEMA, window=20, stride=5, settings=limits, clock=ManualClock(NOW))
    await worker.start()
    try:
        await worker.until(lambda: worker.consumed >= len(sent), 120)
    finally:
        await worker.stop()
    arrived = await read_all(kafka_servers, told.kafka.topics.metrics)
    assert [(record.key, record.value) for record in arrived] == [(record.key, record.value) for record in sent]
    codec = NativeCodec(lambda _: SCHEMA, limits)
    processor = StreamProcessor(SCHEMA, window=20, stride=5, settings=limits, clock=ManualClock(NOW))
    refused, due = list[tuple[int, str]](), list[tuple[str, int]]()
    for piece in (arrived[at : at + 1000] for at in range(0, len(arrived), 1000)):
        samples, undecodable = codec.decode(piece)
        batches, unusable = processor.add(samples, {})
        refused += [(item.record.offset, item.reason) for item in (*undecodable, *unusable)]
        due += [entity_row for batch in batches for entity_row in zip(batch.entities, batch.end_rows.tolist(), strict=True)]
    letters = [
        {name: content or b"" for name, content in letter.headers}
        for letter in await read_all(kafka_servers, told.kafka.topics.dead_letter)
    ]
    found = [(int(told["__streams.errors.offset"]), told["tidewatch.reason"].decode()) for told in letters]
    assert Counter(found) == Counter(refused)
    assert sorted(due) == sorted((entity, row + NOW // 1000) for entity, row in worker.due)
    assert sum(entity.startswith("good-") for entity, _ in due) > 500
