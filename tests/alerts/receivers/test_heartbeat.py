"""The dead man's switch: it beats while all is well, and only then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from service.alerts.receivers.heartbeat import HeartbeatPart
from service.app import build_service
from service.clock import ManualClock
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
    return HeartbeatPart(settings, is_well=health.ready, describe=health.describe)


async def test_it_beats_while_every_part_is_ready_and_not_while_one_is_not_or_stands_still() -> None:
    clock = ManualClock()
    health = Health(clock)
    looked = 0

    def is_well() -> bool:
        nonlocal looked
        looked += 1
        return health.ready()

    async with http_receiver() as server:
        made = part(server, health)
        made._is_well = is_well
        work = asyncio.create_task(made.run())
        await _until(lambda: looked >= 3)
        assert server.requests == []  # nothing has said yet that it is ready

        health.beat("store", ready=True, detail="db-7 is fine")
        await _until(lambda: len(server.requests) >= 2)
        assert server.requests[0].json == {"status": "ok", "parts": ["store"]}

        clock.advance(3600)  # the part stands still
        before = looked
        await _until(lambda: looked >= before + 2)
        beats = len(server.requests)
        await _until(lambda: looked >= before + 6)
        assert len(server.requests) == beats
        made.request_stop()
        await work
        await made.close()


async def test_a_receiver_that_refuses_does_not_end_it() -> None:
    health = Health(ManualClock())
    health.beat("notify", ready=True)
    async with http_receiver(Behaviour(status=500), Behaviour(status=404)) as server:
        made = part(server, health)
        work = asyncio.create_task(made.run())
        await _until(lambda: len(server.requests) >= 4)
        made.request_stop()
        await work
        await made.close()


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
