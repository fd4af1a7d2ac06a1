"""The notify part from a real Kafka to a real receiver, and what is committed when."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from pydantic import SecretStr

from service.alerts.notify.dispatcher import NotificationService
from service.alerts.notify.journal import Journal
from service.alerts.notify.part import NotifyPart
from service.alerts.receivers.webhook import WebhookNotifier
from service.alerts.topics.transitions import encode_transition
from service.clock import SystemClock
from service.domain import Alert
from service.observability.health import Health
from service.observability.metrics import Metrics
from service.settings import KafkaSettings, NotificationSettings, RouteSettings, TopicSettings, WebhookReceiver
from service.state.notify_journal import NotifyJournal
from tests.alerts.makers import life
from tests.alerts.servers import HANG, OK, HttpReceiver, http_receiver

pytestmark = pytest.mark.kafka


@pytest.fixture
async def kafka(kafka_servers: str) -> KafkaSettings:
    name = f"alerts-{uuid.uuid4().hex[:8]}"
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_servers)
    await admin.start()
    topics = TopicSettings(alerts=name, control=f"{name}-control", notify_state=f"{name}-state", notifications=f"{name}-told")
    ours = (topics.alerts, topics.control, topics.notify_state, topics.notifications)
    await admin.create_topics([NewTopic(topic, 1, 1) for topic in ours])
    await admin.close()
    return KafkaSettings(bootstrap_servers=kafka_servers, group_prefix=name, topics=topics)


async def publish(kafka: KafkaSettings, alerts: Sequence[Alert]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers)
    await producer.start()
    for alert in alerts:
        key, value = encode_transition(alert)
        await producer.send(kafka.topics.alerts, value, key=key, partition=0)
    await producer.stop()


async def committed(kafka: KafkaSettings) -> int | None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    await admin.start()
    offsets = await admin.list_consumer_group_offsets(f"{kafka.group_prefix}.notify")
    await admin.close()
    found = offsets.get(TopicPartition(kafka.topics.alerts, 0))
    return None if found is None else int(found.offset)


def part(kafka: KafkaSettings, server: HttpReceiver, metrics: Metrics) -> NotifyPart:
    receiver = WebhookReceiver(name="hook", url=SecretStr(server.url), allow_http=True)
    route = RouteSettings(receivers=["hook"], group_wait_seconds=0.1, group_interval_seconds=0.3)
    journal = Journal()
    service = NotificationService(
        NotificationSettings(receivers=[receiver], routes=[route]),
        {"hook": WebhookNotifier(receiver)},
        journal=journal,
        clock=SystemClock(),
        on_outcome=lambda name, outcome: metrics.notifications.labels(name, outcome).inc(),
        retry_wait=(0.05, 0.2),
    )
    return NotifyPart(kafka, service, journal, NotifyJournal(kafka), health=Health(SystemClock()), clock=SystemClock())


async def _until(count: int, server: HttpReceiver) -> None:
    async with asyncio.timeout(60):
        while len(server.requests) < count:
            await asyncio.sleep(0.05)


async def test_what_a_dying_notifier_owed_is_told_by_the_next_under_the_same_key(kafka: KafkaSettings) -> None:
    opened, fired, resolved = life("host-1")
    await publish(kafka, [opened, fired])
    async with http_receiver(otherwise=HANG) as server:
        first = part(kafka, server, Metrics())
        await first.start()
        work = asyncio.create_task(first.run())
        await _until(1, server)
        await asyncio.sleep(1.2)  # long enough for a commit
        assert await committed(kafka) == 2  # both are read, and the message that is owed lies beside the offset
        # it dies: nothing is settled, nothing recorded
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await first._service._tasks.close()
        await first._reader.close()
        await first._control.close()
        await publish(kafka, [resolved])  # meanwhile it is over
        server.otherwise = OK
        server.release()

        metrics = Metrics()
        second = part(kafka, server, metrics)
        await second.start()
        work = asyncio.create_task(second.run())
        await _until(3, server)
        second.request_stop()
        await work
        await second.close()
        assert await committed(kafka) == 3
    keys = [request.headers["idempotency-key"] for request in server.requests[:2]]
    assert keys[0] == keys[1]
    assert server.requests[0].body == server.requests[1].body
    assert [request.json["alerts"][0]["status"] for request in server.requests[1:3]] == ["firing", "resolved"]
    assert metrics.notifications.labels("hook", "sent")._value.get() == 2


async def test_a_record_that_is_no_alert_is_passed_over_and_no_dead_letter_is_counted(kafka: KafkaSettings) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers)
    await producer.start()
    await producer.send_and_wait(kafka.topics.alerts, b"no alert", partition=0)
    await producer.stop()
    await publish(kafka, life("host-1")[:2])
    metrics = Metrics()
    async with http_receiver() as server:
        notify = part(kafka, server, metrics)
        await notify.start()
        work = asyncio.create_task(notify.run())
        await _until(1, server)
        notify.request_stop()
        await work
        await notify.close()
    assert b"tidewatch_records_dead_lettered_total{" not in metrics.exposition()


async def test_a_notifier_that_was_fenced_tells_nobody_until_it_took_over_again(kafka: KafkaSettings) -> None:
    metrics = Metrics()
    async with http_receiver() as server:
        one = part(kafka, server, metrics)
        await one.start()
        work = asyncio.create_task(one.run())
        async with asyncio.timeout(60):
            while not one._active:
                await asyncio.sleep(0.05)
        stranger = NotifyJournal(kafka)
        assert await stranger.take_over() == (None, {})
        turn = one._turn
        await publish(kafka, life("host-1")[:2])
        await _until(1, server)
        assert one._turn > turn  # it was put out, joined again, and read again what it had not recorded
        assert not await stranger.write({b"[]": b""}, 2, {}, [])
        await publish(kafka, life("host-1")[2:])
        await _until(2, server)
        await asyncio.sleep(0.6)
        one.request_stop()
        await work
        await one.close()
        await stranger.close()
    assert [request.json["alerts"][0]["status"] for request in server.requests] == ["firing", "resolved"]


async def test_a_standby_takes_over_what_the_active_one_had_told(kafka: KafkaSettings) -> None:
    opened, fired, resolved = life("host-1")
    async with http_receiver() as server:
        one, two = part(kafka, server, Metrics()), part(kafka, server, Metrics())
        works = []
        for each in (one, two):
            await each.start()
            works.append(asyncio.create_task(each.run()))
        await publish(kafka, [opened, fired])
        await _until(1, server)
        await asyncio.sleep(1.0)
        assert sorted((one._active, two._active)) == [False, True]
        active, standby = (0, 1) if one._active else (1, 0)
        parts = (one, two)
        parts[active].request_stop()
        await works[active]
        await parts[active].close()
        await publish(kafka, [resolved])
        await _until(2, server)
        await asyncio.sleep(0.6)
        parts[standby].request_stop()
        await works[standby]
        await parts[standby].close()
    assert [request.json["alerts"][0]["status"] for request in server.requests] == ["firing", "resolved"]
