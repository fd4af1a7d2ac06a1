"""Runs parts side by side until one fails or the process is told to stop; then every part drains and closes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
from collections.abc import Coroutine, Iterator, Sequence
from typing import Protocol

from service.observability.logging import get_logger

log = get_logger("run")


class Part(Protocol):
    """A piece of the service that works by itself: scoring, store, notify, the health server."""

    name: str

    async def start(self) -> None:
        """Connect; raise rather than begin half-ready."""
        ...

    async def run(self) -> None:
        """Work until ``request_stop``."""
        ...

    def request_stop(self) -> None:
        """Finish what is in hand, then return from ``run``."""
        ...

    async def close(self) -> None:
        """Leave groups and close connections; called once, also after a failure."""
        ...


async def run_parts(parts: Sequence[Part], stop: asyncio.Event, *, grace: float = 30.0) -> None:
    """Start ``parts`` in order, run them until ``stop`` is set or one of them ends or fails, then stop and close all.

    A part that has not drained ``grace`` seconds after it was asked to is cancelled. Raises what the first failing part
    raised, after the others were closed.
    """
    started: list[Part] = []
    tasks: list[asyncio.Task[None]] = []
    try:
        for part in parts:
            started.append(part)
            await _unless(stop, part.start())
            if stop.is_set():
                return
            log.info("part started", part=part.name)
        tasks = [asyncio.create_task(part.run(), name=part.name) for part in parts]
        waiting = asyncio.create_task(stop.wait())
        await asyncio.wait([*tasks, waiting], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
    finally:
        for part in started:
            part.request_stop()
        if tasks and (late := (await asyncio.wait(tasks, timeout=grace))[1]):
            log.warning("parts did not drain in time", parts=[task.get_name() for task in late], seconds=grace)
            for task in late:
                task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for part in reversed(started):
            await part.close()
    failures = [result for result in results if isinstance(result, Exception)]
    if failures:
        raise failures[0]


async def _unless(stop: asyncio.Event, work: Coroutine[object, object, None]) -> None:
    """Await ``work`` unless ``stop`` is set first: a server that is away must not keep a process from stopping."""
    task = asyncio.create_task(work)
    waiting = asyncio.create_task(stop.wait())
    await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if not task.done():
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return
    await task


def settle_interpreter() -> None:
    """Once everything is wired: never again walk what stays for good (torch, numba, the bundles), collect more rarely, and let a
    thread that comes back from compiled code have the interpreter sooner.

    With its own thresholds the collector took a sixth of the time of decoding. With its own 5 ms between switches a thread waited
    that long after each of its many compiled calls: docs/performance.md has the figures.
    """
    sys.setswitchinterval(0.001)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@contextlib.contextmanager
def stop_on_signals(stop: asyncio.Event) -> Iterator[None]:
    """Set ``stop`` on SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
