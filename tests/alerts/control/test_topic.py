"""The control topic: readers follow it whatever happens to one command, and it does not grow for ever."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from service.alerts.control.commands import Acknowledge, Command, Control
from service.alerts.control.topic import ControlReader, say
from service.settings import KafkaSettings, TopicSettings


def acknowledge(name: str, at: int = 0) -> Acknowledge:
    return Acknowledge(id=name, alert_id=f"alert-{name}", entity="db-7", author="Ada", at=at)


@pytest.fixture
async def kafka(kafka_servers: str) -> KafkaSettings:
    name = f"control-{uuid.uuid4().hex[:8]}"
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_servers)
    await admin.start()
    await admin.create_topics([NewTopic(name, 1, 1)])
    await admin.close()
    return KafkaSettings(bootstrap_servers=kafka_servers, topics=TopicSettings(control=name))


@pytest.mark.kafka
@pytest.mark.xfail(strict=True, reason="a command whose handling raises ends the following of the topic in silence")
async def test_a_command_whose_handling_raises_once_is_handled_and_so_are_those_after_it(kafka: KafkaSettings) -> None:
    handled: list[str] = []
    failures = ["bad"]

    def handle(commands: list[Command]) -> None:
        for command in commands:
            if command.id in failures:
                failures.remove(command.id)
                raise RuntimeError("a mistake of ours")
            handled.append(command.id)

    reader = ControlReader(kafka, handle)
    await reader.start()
    for name in ("good", "bad", "later"):
        await say(kafka, acknowledge(name))
    try:
        async with asyncio.timeout(5):
            while set(handled) != {"good", "bad", "later"}:
                await asyncio.sleep(0.05)
    finally:
        await reader.close()


@pytest.mark.xfail(strict=True, reason="every command is kept for ever, on the topic and in memory")
def test_commands_that_change_nothing_any_more_are_named() -> None:
    control = Control()
    for n in range(1000):
        control.apply(acknowledge(str(n), at=n))
    assert len(control.outdated(900)) == 900  # type: ignore[attr-defined]  # there is no such thing yet
