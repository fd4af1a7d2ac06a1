"""Parts run side by side, stop together, and the first failure is what people are told."""

from __future__ import annotations

import asyncio

import pytest

from service.errors import BrokerUnavailable, ConfigError
from service.runtime import run_parts


class RecordedPart:
    """A part that writes down what is done to it."""

    def __init__(self, name: str, log: list[str], *, fails_at: str = "", stubborn: bool = False) -> None:
        self.name = name
        self._log = log
        self._fails_at = fails_at
        self._stubborn = stubborn
        self._stop = asyncio.Event()

    async def start(self) -> None:
        self._log.append(f"{self.name} start")
        if self._fails_at == "start":
            raise ConfigError("wrong password", hint="give the right one")
        if self._fails_at == "hang":
            await asyncio.Event().wait()

    async def run(self) -> None:
        if self._fails_at == "run":
            raise BrokerUnavailable("no broker")
        await self._stop.wait()
        if self._stubborn:
            await asyncio.Event().wait()
        self._log.append(f"{self.name} drained")

    def request_stop(self) -> None:
        self._stop.set()

    async def close(self) -> None:
        self._log.append(f"{self.name} close")


async def test_a_stop_drains_then_closes_in_reverse() -> None:
    log: list[str] = []
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.05, stop.set)
    await run_parts([RecordedPart("a", log), RecordedPart("b", log)], stop)
    assert log == ["a start", "b start", "a drained", "b drained", "b close", "a close"]


async def test_a_failing_part_stops_the_others_and_its_error_comes_out() -> None:
    log: list[str] = []
    with pytest.raises(BrokerUnavailable):
        await run_parts([RecordedPart("a", log), RecordedPart("b", log, fails_at="run")], asyncio.Event())
    assert log == ["a start", "b start", "a drained", "b close", "a close"]


async def test_a_part_that_cannot_start_means_none_runs() -> None:
    log: list[str] = []
    with pytest.raises(ConfigError, match="wrong password"):
        await run_parts([RecordedPart("a", log), RecordedPart("b", log, fails_at="start")], asyncio.Event())
    assert log == ["a start", "b start", "b close", "a close"]


async def test_a_stop_is_heard_while_a_part_still_connects() -> None:
    log: list[str] = []
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.05, stop.set)
    await run_parts([RecordedPart("a", log, fails_at="hang")], stop)
    assert log == ["a start", "a close"]


async def test_a_part_that_does_not_drain_is_cancelled() -> None:
    log: list[str] = []
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.05, stop.set)
    await run_parts([RecordedPart("a", log, stubborn=True)], stop, grace=0.05)
    assert log == ["a start", "a close"]
