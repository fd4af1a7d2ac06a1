"""The notify part from a real Kafka to a real receiver, and what is committed when."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from pydantic import SecretStr

from service.alerts.notifications import NotificationService
from service.alerts.notify import NotifyPart
from service.alerts.webhook import WebhookNotifier
from service.alerts.wire import encode, encode_key
from service.clock import SystemClock
from service.domain import Alert
from service.observability.health import Health
from service.observability.metrics import Metrics
from service.settings import KafkaSettings, NotificationSettings, RouteSettings, TopicSettings, WebhookReceiver
from tests.alerts.makers import life
from tests.alerts.servers import HANG, OK, HttpReceiver, http_receiver

pytestmark = pytest.mark.kafka


@pytest.fixture
async def kafka(kafka_servers: str) -> KafkaSettings:
    name = f"alerts-{uuid.uuid4().hex[:8]}"
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_servers)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 1, 1) for topic in (name, f"{name}-control")])
    await admin.close()
    return KafkaSettings(
        bootstrap_servers=kafka_servers, group_prefix=name, topics=TopicSettings(alerts=name, control=f"{name}-control")
    )


async def publish(kafka: KafkaSettings, alerts: Sequence[Alert]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers)
    await producer.start()
    for alert in alerts:
        await producer.send(kafka.topics.alerts, encode(alert), key=encode_key(alert), partition=0)
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
    service = NotificationService(
        NotificationSettings(receivers=[receiver], routes=[route]),
        {"hook": WebhookNotifier(receiver)},
        clock=SystemClock(),
        on_outcome=lambda name, outcome: metrics.notifications.labels(name, outcome).inc(),
        retry_wait=(0.05, 0.2),
    )
    return NotifyPart(kafka, service, metrics=metrics, health=Health(SystemClock()))


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
        await asyncio.sleep(1.2)  # long enough for a commit, if it made one too far
        assert await committed(kafka) == 1  # the pending one is settled, the fired one is owed
        # dies without a word to anybody
        dead = [work, *(worker.task for worker in first._service._workers.values() if worker.task is not None)]
        for task in dead:
            task.cancel()
        await asyncio.gather(*dead, return_exceptions=True)
        await first._reader.close()
        await first._control.close()
        server.otherwise = OK
        server.release()

        metrics = Metrics()
        second = part(kafka, server, metrics)
        await second.start()
        work = asyncio.create_task(second.run())
        await _until(2, server)
        await publish(kafka, [resolved])
        await _until(3, server)
        second.request_stop()
        await work
        await second.close()
        assert await committed(kafka) == 3
    keys = [request.headers["idempotency-key"] for request in server.requests[:2]]
    assert keys[0] == keys[1]
    assert [request.json["alerts"][0]["status"] for request in server.requests[1:3]] == ["firing", "resolved"]
    assert metrics.notifications.labels("hook", "sent")._value.get() == 2
