"""Parts run side by side, stop together, and the first failure is what people are told."""

from __future__ import annotations

import asyncio

import pytest

from service.clock import ManualClock
from service.errors import BrokerUnavailable, ConfigError
from service.observability.health import Health
from service.runtime import RestartedPart, close_all, run_parts


class RecordedPart:
    """A part that writes down what is done to it."""

    def __init__(self, name: str, log: list[str], *, fails_at: str = "", stubborn: bool = False, close_fails: bool = False) -> None:
        self.name = name
        self._log = log
        self._fails_at = fails_at
        self._stubborn = stubborn
        self._close_fails = close_fails
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
        if self._close_fails:
            raise OSError(f"{self.name} cannot be closed")


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


async def test_a_close_that_raises_neither_hides_the_first_failure_nor_leaves_the_others_open() -> None:
    log: list[str] = []
    parts = [
        RecordedPart("a", log),
        RecordedPart("b", log, fails_at="run", close_fails=True),
        RecordedPart("c", log, close_fails=True),
    ]
    with pytest.raises(BrokerUnavailable):
        await run_parts(parts, asyncio.Event())
    assert log[-3:] == ["c close", "b close", "a close"]


async def test_a_close_that_raises_does_not_hide_why_a_part_could_not_start() -> None:
    log: list[str] = []
    with pytest.raises(ConfigError, match="wrong password"):
        await run_parts([RecordedPart("a", log), RecordedPart("b", log, fails_at="start", close_fails=True)], asyncio.Event())
    assert log == ["a start", "b start", "b close", "a close"]


async def test_a_close_that_raises_is_reported_when_nothing_else_failed() -> None:
    log: list[str] = []
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.05, stop.set)
    with pytest.raises(OSError, match="b cannot be closed"):
        await run_parts([RecordedPart("a", log), RecordedPart("b", log, close_fails=True)], stop)
    assert log[-2:] == ["b close", "a close"]


async def test_a_part_that_ends_by_itself_is_a_failure() -> None:
    log: list[str] = []
    ending = RecordedPart("b", log)
    ending.request_stop()
    with pytest.raises(RuntimeError, match="b"):
        await run_parts([RecordedPart("a", log), ending], asyncio.Event())
    assert log[-2:] == ["b close", "a close"]


async def test_a_failure_while_draining_does_not_hide_the_first() -> None:
    log: list[str] = []

    class FailsLate(RecordedPart):
        async def run(self) -> None:
            await super().run()
            raise OSError("failed while draining")

    with pytest.raises(BrokerUnavailable):
        await run_parts([FailsLate("a", log), RecordedPart("b", log, fails_at="run")], asyncio.Event())


async def test_close_all_closes_everything_and_raises_the_first_failure() -> None:
    closed: list[str] = []

    async def awaits_a_cancelled_task() -> None:
        closed.append("awaits")
        task = asyncio.create_task(asyncio.sleep(60))
        task.cancel()
        await task

    async def fails() -> None:
        closed.append("fails")
        raise OSError("second")

    await close_all()
    with pytest.raises(RuntimeError, match="cancelled"):
        await close_all(awaits_a_cancelled_task, fails, lambda: closed.append("last"))
    assert closed == ["awaits", "fails", "last"]


class Failing(RecordedPart):
    """Fails in ``run`` as long as ``failures`` holds one."""

    def __init__(self, log: list[str], failures: list[Exception]) -> None:
        super().__init__("b", log)
        self._failures = failures
        self._made = log

    async def run(self) -> None:
        if self._failures:
            raise self._failures.pop(0)
        self._made.append("b works")
        await super().run()


@pytest.mark.parametrize("error", [BrokerUnavailable("away"), ConfigError("refused"), TypeError("a mistake"), KeyError("items")])
async def test_a_part_that_fails_is_built_anew_and_the_others_go_on(error: Exception) -> None:
    log: list[str] = []
    clock, stop = ManualClock(), asyncio.Event()
    health = Health(clock)
    failures = [error, error]
    restarted = RestartedPart(lambda: Failing(log, failures), health, clock)
    running = asyncio.create_task(run_parts([RecordedPart("a", log), restarted], stop))
    seen: list[str] = []
    while "b works" not in log:
        await asyncio.sleep(0)
        seen += [str(part["detail"]) for name, part in health.describe().items() if name == "b" and not part["ready"]]
    assert any(str(error) in detail for detail in seen)
    assert "a drained" not in log
    assert health.tasks_work()
    stop.set()
    await running
    assert log.count("b start") == log.count("b close") == 3
    assert log.count("a close") == 1


async def test_what_is_wrong_at_the_first_start_ends_the_process() -> None:
    log: list[str] = []
    clock = ManualClock()
    restarted = RestartedPart(lambda: RecordedPart("b", log, fails_at="start"), Health(clock), clock)
    with pytest.raises(ConfigError, match="wrong password"):
        await run_parts([RecordedPart("a", log), restarted], asyncio.Event())


async def test_a_part_that_waits_for_its_next_start_stops_at_once() -> None:
    log: list[str] = []

    class Standing(ManualClock):
        async def sleep(self, seconds: float) -> None:
            await asyncio.Event().wait()

    clock, stop = Standing(), asyncio.Event()
    health = Health(clock)
    restarted = RestartedPart(lambda: RecordedPart("b", log, fails_at="run"), health, clock)
    running = asyncio.create_task(run_parts([restarted], stop))
    while health.tasks_work():
        await asyncio.sleep(0)
    stop.set()
    await running
    assert log.count("b start") == log.count("b close")
