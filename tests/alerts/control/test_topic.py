"""The control topic: readers follow it whatever happens to one command, and it does not grow for ever."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from service.alerts.control.commands import Acknowledge, AddSilence, Command, ExpireSilence, encode_key
from service.alerts.control.topic import MOST_TRIES, ControlReader, delete_commands, send_command
from service.alerts.history.mute_annotator import MuteAnnotator
from service.clock import SystemClock
from service.observability.health import Health
from service.observability.tasks import BackgroundTasks
from service.settings import KafkaSettings, NotificationSettings, TopicSettings
from tests.alerts.makers import alert, background_tasks

pytestmark = pytest.mark.kafka
DAY_MS = 86_400_000
SILENCE = AddSilence(id="s1", match={"entity": "db-*"}, starts_at=1000, ends_at=9000, author="Ada", at=900, comment="disks")


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


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.02)


class Handler:
    """Handles commands, but fails on those that are named, as often as it says. Health as the reader's part has it."""

    def __init__(self, **fails: int) -> None:
        self.fails = fails
        self.handled: list[str] = []
        self.dropped: list[str] = []
        self.health = Health(SystemClock())
        self.health.beat("notify", ready=True)
        self.tasks = BackgroundTasks("notify", self.health, SystemClock(), first_wait=0.1, longest_wait=0.4)

    def handle(self, commands: list[Command]) -> None:
        for command in commands:
            if self.fails.get(command.id, 0) > 0:
                self.fails[command.id] -= 1
                raise RuntimeError("a mistake of ours")
            self.handled.append(command.id)

    def reader(self, kafka: KafkaSettings) -> ControlReader:
        return ControlReader(kafka, self.handle, self.tasks, on_dropped=self.dropped.extend)


async def test_commands_given_before_and_after_the_start_are_read(kafka: KafkaSettings) -> None:
    await send_command(kafka, SILENCE)
    noise = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers)
    await noise.start()
    await noise.send_and_wait(kafka.topics.control, b"noise", partition=0)
    await noise.stop()
    read: list[Command] = []
    reader = ControlReader(kafka, read.extend, background_tasks())
    await reader.start()
    assert read == [SILENCE]  # before anything else happens
    expired = ExpireSilence(id="x", silence_id="s1", author="Bob", at=4000)
    await send_command(kafka, expired)
    await until(lambda: len(read) == 2)
    await reader.close()
    assert read == [SILENCE, expired]


async def test_a_command_whose_handling_raises_is_seen_and_is_handled_and_so_are_the_others(kafka: KafkaSettings) -> None:
    handler = Handler(bad=3)  # in the batch, by itself, and by itself again
    reader = handler.reader(kafka)
    await reader.start()
    try:
        for name in ("before", "bad", "after"):
            await send_command(kafka, acknowledge(name))
        await until(lambda: not handler.health.ready())
        assert "control topic" in str(handler.health.describe()["notify"]["detail"])
        assert "a mistake of ours" in str(handler.health.describe()["notify"]["detail"])
        await until(lambda: {"before", "bad", "after"} <= set(handler.handled))
        await until(handler.health.ready)
    finally:
        await reader.close()


async def test_a_command_that_cannot_be_handled_is_left_until_the_next_start(kafka: KafkaSettings) -> None:
    await send_command(kafka, acknowledge("bad"))
    handler = Handler(bad=1000)
    reader = handler.reader(kafka)
    await reader.start()  # is not stopped by it
    try:
        await until(lambda: not handler.health.ready())
        await until(handler.health.ready)  # it is left, after some tries
        tries = 1000 - handler.fails["bad"]
        assert MOST_TRIES <= tries <= 2 * MOST_TRIES
        await send_command(kafka, acknowledge("later"))
        await until(lambda: handler.handled == ["later"])
        assert 1000 - handler.fails["bad"] == tries
    finally:
        await reader.close()
    fixed = Handler()
    again = fixed.reader(kafka)
    await again.start()
    await again.close()
    assert fixed.handled == ["bad", "later"]


async def test_what_is_deleted_from_the_topic_is_dropped_and_not_read_again(kafka: KafkaSettings) -> None:
    handler = Handler()
    reader = handler.reader(kafka)
    await reader.start()
    for name in ("one", "two"):
        await send_command(kafka, acknowledge(name))
    await until(lambda: handler.handled == ["one", "two"])
    await delete_commands(kafka, ["acknowledge/one"])
    await until(lambda: handler.dropped == ["acknowledge/one"])
    await reader.close()
    later = Handler()
    again = later.reader(kafka)
    await again.start()
    await again.close()
    assert later.handled == ["two"]


class HurriedClock(SystemClock):
    """An hour passes in a moment."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.05))


async def test_the_store_part_deletes_what_has_no_effect_once_the_audit_log_has_it(kafka: KafkaSettings) -> None:
    clock = HurriedClock()
    now = clock.now_ms()
    ended = AddSilence(id="old", match={"entity": "db-*"}, starts_at=0, ends_at=now + DAY_MS, author="Ada", at=0)
    forever = AddSilence(id="forever", match={"entity": "web-*"}, starts_at=0, ends_at=now + DAY_MS, author="Ada", at=0)
    expired = ExpireSilence(id="x", silence_id="old", author="Bob", at=now - 40 * DAY_MS)
    young = acknowledge("young", now)
    for command in (ended, forever, expired, acknowledge("taken", now - 40 * DAY_MS), young):
        await send_command(kafka, command)
    annotator = MuteAnnotator(kafka, NotificationSettings(), health=Health(clock), clock=clock, keep_ms=30 * DAY_MS)
    handler = Handler()
    follower = handler.reader(kafka)
    await annotator.start()
    await follower.start()
    try:
        await asyncio.sleep(0.5)  # several rounds
        assert handler.dropped == []  # the audit log has nothing yet
        long_ago = alert("db-7", started_at=now - 50 * DAY_MS)
        assert annotator.reason(long_ago) is not None
        annotator.unwritten.clear()
        await until(lambda: len(handler.dropped) >= 3)
        assert set(handler.dropped) == {"acknowledge/taken", "silence/old", "expire/x"}
        assert handler.dropped.index("silence/old") < handler.dropped.index("expire/x")
        await until(lambda: annotator.reason(long_ago) is None)
        assert annotator.reason(alert("web-1", started_at=now)) is not None
    finally:
        await annotator.close()
        await follower.close()
    left: list[Command] = []
    reader = ControlReader(kafka, left.extend, background_tasks())
    await reader.start()
    await reader.close()
    assert {encode_key(command) for command in left} == {encode_key(forever), encode_key(young)}
