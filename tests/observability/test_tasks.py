"""A background task that ends by itself: logged once, readiness and heartbeat red, started again; close always comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import pytest
import structlog

from service.clock import ManualClock
from service.errors import BrokerUnavailable, ConfigError
from service.observability.health import Health
from service.observability.tasks import BackgroundTasks


class GatedClock(ManualClock):
    """A clock whose sleepers wait until a test has moved the time past their end."""

    async def sleep(self, seconds: float) -> None:
        until = self.monotonic() + seconds
        while self.monotonic() < until:
            await asyncio.sleep(0)


class Rig:
    """One part's background tasks with a clock that stands still."""

    def __init__(self) -> None:
        self.clock = GatedClock()
        self.health = Health(self.clock)
        self.health.beat("scoring", ready=True)
        self.tasks = BackgroundTasks("scoring", self.health, self.clock, first_wait=1, longest_wait=8)
        self.runs = 0
        self.end: asyncio.Queue[BaseException | None] = asyncio.Queue()

    async def work(self) -> None:
        """Runs until the test ends it, with an exception or a return."""
        self.runs += 1
        error = await self.end.get()
        if error is not None:
            raise error

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not holds():
                await asyncio.sleep(0)

    async def fail(self, error: BaseException | None) -> None:
        """End the present run; return when that was noticed."""
        runs, causes = self.runs, self.health.describe()
        self.end.put_nowait(error)
        await self.until(lambda: self.health.describe() != causes or self.runs > runs)

    async def restart_after(self, seconds: float) -> None:
        """The next start comes ``seconds`` after the failure and not before."""
        runs = self.runs
        self.clock.advance(seconds - 0.001)
        for _ in range(20):
            await asyncio.sleep(0)
        assert self.runs == runs
        self.clock.advance(0.001)
        await self.until(lambda: self.runs == runs + 1)

    def detail(self) -> str:
        return str(self.health.describe()["scoring"]["detail"])


@pytest.fixture
async def rig() -> Any:
    made = Rig()
    made.tasks.start("reporter", made.work)
    await made.until(lambda: made.runs == 1)
    yield made
    await made.tasks.close()


@pytest.fixture(autouse=True)
def logged() -> Any:
    with structlog.testing.capture_logs() as entries:
        yield entries


def _failures(logged: list[MutableMapping[str, Any]]) -> list[MutableMapping[str, Any]]:
    return [entry for entry in logged if "ended; it is started again" in entry["event"]]


async def test_one_that_raises_is_logged_with_its_cause_and_started_again(rig: Rig, logged: list[MutableMapping[str, Any]]) -> None:
    assert rig.health.ready()
    await rig.fail(RuntimeError("no such column"))
    assert not rig.health.ready()
    assert "'reporter'" in rig.detail()
    assert "RuntimeError: no such column" in rig.detail()
    [entry] = _failures(logged)
    assert (entry["part"], entry["task"], entry["cause"]) == ("scoring", "reporter", "RuntimeError: no such column")
    assert isinstance(entry["exc_info"], RuntimeError)

    await rig.restart_after(1)
    assert not rig.health.ready(), "it has not lasted yet"
    rig.clock.advance(1.5)
    await rig.until(rig.health.ready)
    assert rig.health.describe()["scoring"]["ready"] is True


async def test_one_that_returns_has_failed_too(rig: Rig) -> None:
    await rig.fail(None)
    assert not rig.health.ready()
    assert "it returned" in rig.detail()
    await rig.restart_after(1)


async def test_one_that_is_cancelled_from_outside_has_failed_too(rig: Rig) -> None:
    [running] = [task for task in asyncio.all_tasks() if task.get_name() == "reporter"]
    running.cancel()
    await rig.until(lambda: not rig.health.ready())
    assert "cancelled" in rig.detail()
    await rig.restart_after(1)


async def test_work_that_fails_before_it_is_a_coroutine_is_caught_too(rig: Rig) -> None:
    def broken() -> Any:
        raise TypeError("wrong call")

    rig.tasks.start("broken", broken)
    await rig.until(lambda: not rig.health.ready())
    assert "TypeError: wrong call" in rig.detail()


async def test_the_same_cause_is_logged_once_until_it_recovers(rig: Rig, logged: list[MutableMapping[str, Any]]) -> None:
    for request, wait in enumerate((1, 2, 4, 8, 8)):
        await rig.fail(BrokerUnavailable(f"no answer to request {request}"))
        await rig.restart_after(wait)
    assert len(_failures(logged)) == 1
    await rig.fail(ValueError("something else"))
    assert len(_failures(logged)) == 2, "another cause"
    await rig.restart_after(8)
    rig.clock.advance(8.1)
    await rig.until(rig.health.ready)
    await rig.fail(BrokerUnavailable("no answer"))
    assert len(_failures(logged)) == 3, "anew"
    await rig.restart_after(1)  # it had lasted longer than the longest wait


async def test_one_that_recovers_for_a_short_time_is_not_started_faster(rig: Rig) -> None:
    await rig.fail(ValueError())
    await rig.restart_after(1)
    rig.clock.advance(1.5)
    await rig.until(rig.health.ready)
    await rig.fail(ValueError())
    await rig.restart_after(2)


async def test_a_retry_is_a_warning_and_a_stop_brings_its_hint(rig: Rig, logged: list[MutableMapping[str, Any]]) -> None:
    await rig.fail(BrokerUnavailable("Kafka is away."))
    await rig.restart_after(1)
    await rig.fail(ConfigError("There is no topic x.", hint="Create it."))
    retry, stop = _failures(logged)
    assert retry["log_level"] == "warning"
    assert stop["log_level"] == "error"
    assert "There is no topic x. Create it." in stop["cause"]
    assert "Create it." in rig.detail()
    assert retry["exc_info"] is stop["exc_info"] is None, "a cause that is known needs no traceback"


async def test_a_long_cause_is_cut(rig: Rig) -> None:
    await rig.fail(ValueError("x" * 100_000))
    assert len(rig.detail()) < 500


async def test_each_failing_task_is_named(rig: Rig) -> None:
    rig.tasks.start("second", rig.work)
    await rig.until(lambda: rig.runs == 2)
    await rig.fail(ValueError("one"))
    await rig.fail(ValueError("two"))
    assert "'reporter'" in rig.detail()
    assert "'second'" in rig.detail()


async def test_a_part_that_never_beat_is_described_when_its_task_fails() -> None:
    health = Health(ManualClock())
    health.beat("store", ready=True)
    health.failing("api", "control", "it returned")
    assert not health.ready()
    assert health.describe()["api"]["ready"] is False
    health.recovered("api", "control")
    assert health.ready()
    assert list(health.describe()) == ["store"]


async def test_a_name_is_used_once(rig: Rig) -> None:
    with pytest.raises(ValueError, match="reporter"):
        rig.tasks.start("reporter", rig.work)


async def test_close_is_no_failure_and_tasks_can_be_started_again(rig: Rig, logged: list[MutableMapping[str, Any]]) -> None:
    await rig.tasks.close()
    assert rig.health.ready()
    assert logged == []
    rig.tasks.start("reporter", rig.work)
    await rig.until(lambda: rig.runs == 2)


async def test_close_lets_a_task_finish_that_was_told_to_end(rig: Rig) -> None:
    ended: list[str] = []
    told = asyncio.Event()

    async def careful() -> None:
        await told.wait()
        await asyncio.sleep(0)
        ended.append("by itself")

    rig.tasks.start("careful", careful)
    await asyncio.sleep(0)
    told.set()
    rig.end.put_nowait(None)
    await rig.tasks.close(drain=30)
    assert ended == ["by itself"]
    assert rig.health.ready()


async def test_close_cancels_one_that_waits_for_its_next_start(rig: Rig) -> None:
    await rig.fail(ValueError())
    await rig.tasks.close(drain=30)
    assert rig.runs == 1
    assert rig.health.ready(), "a closed task fails no more"


async def test_what_a_task_raises_while_it_is_closed_is_logged_and_hides_nothing(
    rig: Rig, logged: list[MutableMapping[str, Any]]
) -> None:
    async def bad_end() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError("disk full")

    rig.tasks.start("bad end", bad_end)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await rig.tasks.close()
    [entry] = logged
    assert entry["cause"] == "OSError: disk full"


async def test_close_leaves_a_task_behind_that_ignores_its_cancellation(rig: Rig, logged: list[MutableMapping[str, Any]]) -> None:
    release = asyncio.Event()

    async def stubborn() -> None:
        waiting: Callable[[], Awaitable[object]] = release.wait
        while not release.is_set():
            try:
                await waiting()
            except asyncio.CancelledError:
                continue

    rig.tasks.start("stubborn", stubborn)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await rig.tasks.close(within=0.05)
    assert logged[-1]["tasks"] == ["stubborn"]
    release.set()
