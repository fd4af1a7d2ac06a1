"""The dead man's switch: it beats while all is well, and only then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from service.alerts.receivers.heartbeat import HeartbeatPart
from service.app import build_service
from service.clock import ManualClock, SystemClock
from service.errors import ConfigError
from service.observability.health import Health
from service.settings import HeartbeatSettings, Settings
from tests.alerts.servers import Behaviour, HttpReceiver, http_receiver


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.01)


def part(server: HttpReceiver, health: Health) -> HeartbeatPart:
    settings = HeartbeatSettings(url=server.url, interval_seconds=0.02, allow_http=True)
    return HeartbeatPart(settings, health=health, clock=SystemClock())


@asynccontextmanager
async def running(made: HeartbeatPart) -> AsyncIterator[None]:
    await made.start()
    try:
        yield
    finally:
        made.request_stop()
        await made.run()
        await made.close()


class CountingHealth(Health):
    """Counts how often it was asked."""

    looked = 0

    def ready(self) -> bool:
        self.looked += 1
        return super().ready()


async def test_it_beats_while_every_part_is_ready_and_not_while_one_is_not_or_is_stuck() -> None:
    clock = ManualClock()
    health = CountingHealth(clock)
    async with http_receiver() as server, running(part(server, health)):
        await _until(lambda: health.looked >= 3)
        assert server.requests == []  # nothing has reported yet that it is ready

        health.beat("store", ready=True, detail="db-7 is fine")
        await _until(lambda: len(server.requests) >= 2)
        assert server.requests[0].json == {"status": "ok", "parts": ["store"]}

        clock.advance(3600)  # the part is stuck
        before = health.looked
        await _until(lambda: health.looked >= before + 2)
        beats = len(server.requests)
        await _until(lambda: health.looked >= before + 6)
        assert len(server.requests) == beats


async def test_a_background_task_that_fails_anywhere_stops_it() -> None:
    health = CountingHealth(ManualClock())
    health.beat("notify", ready=True)
    async with http_receiver() as server, running(part(server, health)):
        await _until(lambda: len(server.requests) >= 2)
        health.failing("notify", "control topic", "KafkaError")
        before = health.looked
        await _until(lambda: health.looked >= before + 2)
        beats = len(server.requests)
        await _until(lambda: health.looked >= before + 6)
        assert len(server.requests) == beats
        health.recovered("notify", "control topic")
        await _until(lambda: len(server.requests) > beats)


async def test_a_receiver_that_refuses_does_not_end_it() -> None:
    health = Health(ManualClock())
    health.beat("notify", ready=True)
    async with http_receiver(Behaviour(status=500), Behaviour(status=404)) as server, running(part(server, health)):
        await _until(lambda: len(server.requests) >= 4)


async def test_one_that_is_killed_turns_readiness_red_and_posts_again() -> None:
    health = Health(ManualClock())
    health.beat("notify", ready=True)
    async with http_receiver() as server, running(part(server, health)):
        await _until(lambda: len(server.requests) >= 2)
        [posting] = [task for task in asyncio.all_tasks() if task.get_name() == "heartbeat posts"]
        posting.cancel()
        await _until(lambda: not health.ready())
        assert "cancelled" in str(health.describe()["heartbeat"]["detail"])
        await _until(health.ready)
        beats = len(server.requests)
        await _until(lambda: len(server.requests) > beats)


def test_it_is_a_part_of_the_service_when_it_is_set_and_only_then() -> None:
    url = {"url": "https://monitor.example.org/s3cret"}
    settings = Settings(http={"enabled": False}, notifications={"heartbeat": url})
    assert "heartbeat" in [each.name for each in build_service(settings, ["notify"])]
    assert "heartbeat" not in [each.name for each in build_service(Settings(http={"enabled": False}), ["notify"])]
    with pytest.raises(ConfigError, match=r"notifications\.heartbeat") as raised:
        build_service(
            Settings(http={"enabled": False}, notifications={"heartbeat": {"url": "http://monitor.example.org/s3cret"}}), []
        )
    assert "s3cret" not in str(raised.value)
