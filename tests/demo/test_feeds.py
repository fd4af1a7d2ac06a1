"""The demo's feeds are watched: when one fails, the demo ends with its error, and the other way round."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from service.demo import feeds
from service.errors import BrokerUnavailable, LocalStackError
from service.settings import Settings


async def test_a_feed_that_fails_ends_the_demo_with_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_: Any, **__: Any) -> int:
        raise BrokerUnavailable("Kafka does not answer.")

    monkeypatch.setattr(feeds, "run_agent", fails)
    with pytest.raises(BrokerUnavailable, match="Kafka does not answer"):
        async with asyncio.timeout(20) as limit, feeds.machine_metrics(Settings()):
            await asyncio.Event().wait()
    assert not limit.expired()


async def test_a_demo_that_fails_ends_its_feeds_and_keeps_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = asyncio.Event()

    async def samples(*_: Any, stop: asyncio.Event, **__: Any) -> int:
        try:
            await stop.wait()
        finally:
            ended.set()
        return 0

    async def demo() -> None:
        async with asyncio.timeout(20), feeds.machine_metrics(Settings()):
            await asyncio.sleep(0)
            raise LocalStackError("no alert")

    monkeypatch.setattr(feeds, "run_agent", samples)
    with pytest.raises(LocalStackError, match="no alert"):
        await demo()
    assert ended.is_set()
