"""Ends a process that hangs, and tells how late the event loop of one that works comes to its tasks.

Nothing is lost by the end: what was not committed is done again by whoever comes next.

Kafka's own detection sees a process that sends no heartbeats. It does not see one whose heartbeats go on while its work stands
still, which would keep its partitions for ever.
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

log = get_logger("watchdog")

EXIT_STATUS = 70  # EX_SOFTWARE
LAG_EVERY_SECONDS = 0.01  # what holds the loop is seen but for so much of it


def end_process(parts: Sequence[str]) -> None:
    """Say what hangs and where every thread stands, then exit at once."""
    log.error("stuck; the process ends itself to be started again", parts=list(parts))
    faulthandler.dump_traceback()
    os._exit(EXIT_STATUS)


class Watchdog:
    """A thread of its own, so that it sees an event loop that is blocked, too."""

    def __init__(
        self, health: Health, *, after: float = 300.0, every: float = 5.0, on_stuck: Callable[[Sequence[str]], None] = end_process
    ) -> None:
        """``on_stuck(parts)`` is called, once, when parts have not beaten for ``after`` seconds."""
        self._health = health
        self._after = after
        self._every = every
        self._on_stuck = on_stuck
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Watch no more: a process that drains does not beat."""
        self._done.set()

    def _watch(self) -> None:
        while not self._done.wait(self._every):
            parts = self._health.stuck(self._after)
            if parts:
                self._on_stuck(parts)
                return


class WatchdogPart:
    """The watchdog as a part: it watches until the others are asked to stop, and follows the event loop meanwhile."""

    name = "watchdog"

    def __init__(self, watchdog: Watchdog, observe_lag: Callable[[float], None], clock: Clock) -> None:
        """``observe_lag(seconds)`` is called again and again with how late a task of the event loop had its turn."""
        self._watchdog = watchdog
        self._observe_lag = observe_lag
        self._clock = clock
        self._stop = asyncio.Event()

    async def start(self) -> None:
        """Begin to watch."""
        self._watchdog.start()

    async def run(self) -> None:
        """Until asked to stop."""
        while not self._stop.is_set():
            due = self._clock.monotonic() + LAG_EVERY_SECONDS
            await self._clock.sleep(LAG_EVERY_SECONDS)
            self._observe_lag(max(self._clock.monotonic() - due, 0.0))

    def request_stop(self) -> None:
        """Watch no more."""
        self._watchdog.stop()
        self._stop.set()

    async def close(self) -> None:
        """Nothing is left to do."""
