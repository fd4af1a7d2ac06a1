"""A part that stands still, or a loop that is blocked, ends the process; one that works or drains does not."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time

from service.clock import SystemClock
from service.observability.health import Health
from service.observability.metrics import Metrics
from service.observability.watchdog import EXIT_STATUS, Watchdog, WatchdogPart


async def test_a_blocked_loop_is_seen_while_it_is_blocked() -> None:
    health, seen, told = Health(SystemClock()), threading.Event(), []

    def stuck(parts: object) -> None:
        told.append(parts)
        seen.set()

    watchdog = Watchdog(health, after=0.2, every=0.02, on_stuck=stuck)
    health.beat("scoring", ready=True)
    watchdog.start()
    for _ in range(10):  # working: it beats
        await asyncio.sleep(0.05)
        health.beat("scoring", ready=True)
    assert not seen.is_set()
    time.sleep(1.0)  # noqa: ASYNC251 - the mistake that is looked for
    assert seen.is_set()
    assert told == [["scoring"]]


def test_it_is_quiet_once_stopped() -> None:
    health = Health(SystemClock())
    told: list[object] = []
    watchdog = Watchdog(health, after=0.1, every=0.02, on_stuck=told.append)
    health.beat("store", ready=True)
    watchdog.start()
    watchdog.stop()
    time.sleep(0.4)
    assert told == []


def test_the_process_ends_and_says_where_it_stood() -> None:
    code = """
import time
from service.clock import SystemClock
from service.observability.health import Health
from service.observability.watchdog import Watchdog
health = Health(SystemClock())
health.beat("scoring", ready=True)
Watchdog(health, after=0.1, every=0.02).start()
time.sleep(60)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == EXIT_STATUS
    assert "scoring" in done.stdout + done.stderr
    assert "most recent call first" in done.stderr


async def test_a_loop_that_was_held_is_told_of() -> None:
    clock, metrics = SystemClock(), Metrics()
    health = Health(clock)
    part = WatchdogPart(Watchdog(health), metrics.loop_lag.observe, health=health, clock=clock)
    await part.start()
    await asyncio.sleep(0.1)
    time.sleep(0.3)  # noqa: ASYNC251 - the mistake that is looked for
    await asyncio.sleep(0.05)
    part.request_stop()
    await part.run()
    await part.close()

    def at_most(seconds: str) -> float:
        return metrics.registry.get_sample_value("tidewatch_event_loop_lag_seconds_bucket", {"le": seconds}) or 0.0

    assert at_most("0.25") < at_most("+Inf")
    assert at_most("+Inf") >= 3


async def test_a_watchdog_that_is_killed_turns_readiness_red_and_watches_again() -> None:
    clock = SystemClock()
    health = Health(clock)
    health.beat("scoring", ready=True)
    watched = threading.Event()

    def broken(parts: object) -> None:
        watched.set()
        raise RuntimeError("no stack to dump")

    part = WatchdogPart(
        Watchdog(health, after=0.0, every=0.01, on_stuck=broken), Metrics().loop_lag.observe, health=health, clock=clock
    )
    await part.start()
    try:
        for _ in range(2):  # it is started again, and fails again
            async with asyncio.timeout(30):
                while not watched.is_set() or health.ready():
                    await asyncio.sleep(0.01)
            watched.clear()
        assert "RuntimeError: no stack to dump" in str(health.describe()["watchdog"]["detail"])
    finally:
        part.request_stop()
        await part.close()
