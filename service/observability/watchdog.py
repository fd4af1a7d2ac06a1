"""Ends a process that hangs, and measures how late the event loop of a working one runs its tasks.

Nothing is lost by the end: what was not committed is processed again by the next owner.

Kafka's own detection sees a process that sends no heartbeats. It does not see one whose heartbeats continue while its work is
stuck, which would keep its partitions for ever.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import threading
from collections.abc import Callable, Sequence

from service.clock import Clock
from service.observability.health import Health
from service.observability.logging import get_logger
from service.observability.tasks import BackgroundTasks

log = get_logger("watchdog")

EXIT_STATUS = 70  # EX_SOFTWARE
LAG_EVERY_SECONDS = 0.01  # a delay of the loop is measured to within this


def end_process(parts: Sequence[str]) -> None:
    """Log what hangs and the stack of every thread, then exit at once."""
    log.error("stuck; the process ends itself to be started again", parts=list(parts))
    faulthandler.dump_traceback()
    os._exit(EXIT_STATUS)


class Watchdog:
    """A thread of its own, so that it also sees an event loop that is blocked."""

    def __init__(
        self, health: Health, *, after: float = 300.0, every: float = 5.0, on_stuck: Callable[[Sequence[str]], None] = end_process
    ) -> None:
        """``on_stuck(parts)`` is called, once, when parts have not beaten for ``after`` seconds."""
        self._health = health
        self._after = after
        self._every = every
        self._on_stuck = on_stuck
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None

    def start(self) -> None:
        """Begin to watch, also again after a failure."""
        self._failure = None
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise what ended the thread, if anything did."""
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Stop watching: a process that drains does not beat."""
        self._done.set()

    def _watch(self) -> None:
        try:
            while not self._done.wait(self._every):
                parts = self._health.stuck(self._after)
                if parts:
                    self._on_stuck(parts)
                    return
        except Exception as error:  # noqa: BLE001 - raised by ``check``
            self._failure = error


class WatchdogPart:
    """The watchdog as a part: it watches until the parts are asked to stop, and measures the event loop meanwhile."""

    name = "watchdog"

    def __init__(self, watchdog: Watchdog, observe_lag: Callable[[float], None], *, health: Health, clock: Clock) -> None:
        """``observe_lag(seconds)`` is called a hundred times a second with how late a task of the event loop ran."""
        self._watchdog = watchdog
        self._observe_lag = observe_lag
        self._clock = clock
        self._tasks = BackgroundTasks(self.name, health, clock)
        self._stop = asyncio.Event()

    async def start(self) -> None:
        """Begin to watch."""
        self._tasks.start("watchdog", self._follow)

    async def run(self) -> None:
        """Watch until asked to stop."""
        await self._stop.wait()

    def request_stop(self) -> None:
        """Stop watching."""
        self._watchdog.stop()
        self._stop.set()

    async def close(self) -> None:
        """Stop measuring."""
        await self._tasks.close()

    async def _follow(self) -> None:
        self._watchdog.start()
        while True:
            due = self._clock.monotonic() + LAG_EVERY_SECONDS
            await self._clock.sleep(LAG_EVERY_SECONDS)
            self._observe_lag(max(self._clock.monotonic() - due, 0.0))
            self._watchdog.check()
