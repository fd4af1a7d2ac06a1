"""The metrics topic changes while it is read: partitions are added, or it is deleted and made anew. Against a real Kafka."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic

from service.commands.check import _check_topics
from service.errors import Stop
from service.state.topics import create_topics
from tests.sources.rig import Worker, kafka_settings, message, send_raw

pytestmark = pytest.mark.kafka


async def administer(servers: str, act: str, *told: Any) -> None:
    admin: Any = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        await getattr(admin, act)(*told)
    finally:
        await admin.close()


async def test_partitions_added_while_running_cost_only_themselves_until_setup_raises_ours(kafka_servers: str) -> None:
    settings = kafka_settings(kafka_servers, partitions=1)
    await create_topics(settings.kafka)
    topic = settings.kafka.topics.metrics
    worker = await Worker(settings).start()
    try:
        await send_raw(kafka_servers, topic, [(b"host-0", message("host-0", row).value) for row in range(6)])
        await worker.until(lambda: worker.consumed == 6)
        await administer(kafka_servers, "create_partitions", {topic: NewPartitions(3)})
        await worker.until(lambda: worker.source.trouble is not None, 60)
        assert "[1, 2]" in (worker.source.trouble or "")
        assert "tidewatch setup" in (worker.source.trouble or "")
        with pytest.raises(Stop, match=r"it has 1 partitions, .* has 3"):
            await _check_topics(settings)
        await send_raw(kafka_servers, topic, [(b"host-0", message("host-0", row).value) for row in range(6, 9)])
        await send_raw(kafka_servers, topic, [(b"host-1", message("host-1", row).value) for row in range(6)], partition=2)
        await worker.until(lambda: worker.consumed == 9, 60)
        raised = {one.name: one for one in await create_topics(settings.kafka)}[settings.kafka.topics.state]
        assert raised.outcome == "raised"
        await _check_topics(settings)
        await worker.until(lambda: worker.consumed == 15, 90)
        assert worker.source.trouble is None
        assert worker.source.reading
    finally:
        await worker.stop()
    assert sorted(worker.due) == [("host-0", row) for row in range(4, 9)] + [("host-1", row) for row in (4, 5)]


@pytest.mark.parametrize("pause", [False, True])
async def test_a_topic_made_anew_is_read_from_its_beginning(kafka_servers: str, pause: bool) -> None:
    settings = kafka_settings(kafka_servers, partitions=1)
    await create_topics(settings.kafka)
    topic = settings.kafka.topics.metrics
    worker = await Worker(settings).start()
    try:
        await send_raw(kafka_servers, topic, [(b"host-0", message("host-0", row).value) for row in range(8)])
        await worker.until(lambda: worker.consumed == 8)
        await administer(kafka_servers, "delete_topics", [topic])
        if pause:
            await worker.until(lambda: "does not exist" in (worker.source.trouble or ""), 60)
        await worker.until(lambda: True)
        for _ in range(100):
            try:
                await administer(kafka_servers, "create_topics", [NewTopic(topic, 1, 1)])
                await send_raw(kafka_servers, topic, [(b"host-9", message("host-9", row).value) for row in range(20, 26)])
                break
            except Exception:  # noqa: BLE001 - Kafka deletes a topic in its own time
                continue
        await worker.until(lambda: ("host-9", 25) in worker.due, 90)
        assert worker.source.trouble is None
    finally:
        await worker.stop()
    assert [due for due in worker.due if due[0] == "host-9"] == [("host-9", 24), ("host-9", 25)]
