"""Runs parts concurrently until one fails or the process is told to stop; then every part drains and closes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from service.clock import Clock
from service.observability.logging import get_logger

if TYPE_CHECKING:
    from service.observability.health import Health  # loads the web server, which the command line does without

log = get_logger("run")

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds before a part that failed is started again

Closer = Callable[[], Awaitable[object] | None]


class Part(Protocol):
    """A unit of the service that runs by itself: scoring, store, notify, the health server."""

    name: str

    async def start(self) -> None:
        """Connect; raise rather than begin half-ready."""
        ...

    async def run(self) -> None:
        """Work until ``request_stop``."""
        ...

    def request_stop(self) -> None:
        """Finish the current work, then return from ``run``."""
        ...

    async def close(self) -> None:
        """Leave groups and close connections; called once, also after a failure."""
        ...


class RestartedPart:
    """A part whose failure costs only itself: it is closed, built anew and started again, while the others go on.

    What is wrong at the first ``build`` or ``start`` is raised, and ends the process: a wrong setting is told at once. Later
    failures make the part not ready, with the cause, and are tried again after a wait that doubles up to ``LONGEST_WAIT``. It is
    built anew because its connections and its memory may be what broke; what it had not committed is read again.
    """

    def __init__(self, build: Callable[[], Part], health: Health, clock: Clock) -> None:
        self._build = build
        self._health = health
        self._clock = clock
        self._stop = asyncio.Event()
        self._part: Part | None = build()
        self.name = self._part.name

    async def start(self) -> None:
        """Start it for the first time; raises what is wrong."""
        assert self._part is not None
        await self._part.start()

    async def run(self) -> None:
        """Run it, again and again, until ``request_stop``."""
        wait = FIRST_WAIT
        while not self._stop.is_set():
            began = self._clock.monotonic()
            try:
                await self._run_once()
                if self._stop.is_set():
                    return
                error: Exception = RuntimeError("it ended although nothing stopped it")
            except Exception as caught:  # noqa: BLE001 - whatever it is, it costs this part only
                error = caught
            if self._stop.is_set():
                raise error  # a failure while draining is told by ``run_parts``
            wait = FIRST_WAIT if self._clock.monotonic() - began > LONGEST_WAIT else min(2 * wait, LONGEST_WAIT)
            cause = f"{type(error).__name__}: {error} {getattr(error, 'hint', '')}".rstrip()
            log.error("part failed; it is started again", part=self.name, cause=cause, seconds=wait, exc_info=error)
            self._health.failing(self.name, "run", cause[:300])
            await self._discard()
            await unless_set(self._stop, self._rest(wait))

    def request_stop(self) -> None:
        """Have it finish its current work, and start it no more."""
        self._stop.set()
        if self._part is not None:
            self._part.request_stop()

    async def close(self) -> None:
        """Close what runs now."""
        part, self._part = self._part, None
        if part is not None:
            await part.close()

    async def _run_once(self) -> None:
        if self._part is None:
            self._part = self._build()
            await unless_set(self._stop, self._part.start())
            if self._stop.is_set():
                return
            self._health.recovered(self.name, "run")
            log.info("part started again", part=self.name)
        await self._part.run()

    async def _discard(self) -> None:
        try:
            await self.close()
        except Exception as error:
            log.exception("a part that failed did not close", part=self.name, cause=str(error))

    async def _rest(self, seconds: float) -> None:
        """Sleep; the part waits on purpose, so that it still counts as alive and not as stuck."""
        self._health.beat(self.name, ready=False, detail="waits to be started again")
        await self._clock.sleep(seconds)


async def run_parts(parts: Sequence[Part], stop: asyncio.Event, *, grace: float = 30.0) -> None:
    """Start ``parts`` in order, run them until ``stop`` is set or one of them ends or fails, then stop and close all.

    A part that has not drained ``grace`` seconds after it was asked to is cancelled. One that ends although nothing stopped it
    has failed (``RuntimeError``). Raises the first failure, after all parts were closed; the others are logged.
    """
    started: list[Part] = []
    tasks: list[asyncio.Task[None]] = []
    failures: list[Exception] = []
    try:
        for part in parts:
            started.append(part)
            await unless_set(stop, part.start())
            if stop.is_set():
                break
            log.info("part started", part=part.name)
        else:
            tasks = [asyncio.create_task(part.run(), name=part.name) for part in parts]
            failures += await _first_to_end(tasks, stop)
    except Exception as error:  # noqa: BLE001 - raised below, when everything is closed
        failures.append(error)
    finally:
        running = [task for task in tasks if not task.done()]
        failures += await _call_each(part.request_stop for part in started)
        failures += await _drain(running, grace)
        failures += await _call_each(part.close for part in reversed(started))
    _raise_first(failures)


async def close_all(*closers: Closer) -> None:
    """Call every closer in order, also when one before it raised; then raise the first failure. The others are logged."""
    _raise_first(await _call_each(closers))


async def _call_each(calls: Iterable[Closer]) -> list[Exception]:
    failures: list[Exception] = []
    for call in calls:
        try:
            result = call()
            if result is not None:
                await result
        except Exception as error:  # noqa: BLE001 - returned to the caller
            failures.append(error)
        except asyncio.CancelledError as error:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            failures.append(RuntimeError(f"Closing awaited a task that had been cancelled: {error!r}."))
    return failures


def _raise_first(failures: Sequence[Exception]) -> None:
    for failure in failures[1:]:
        log.error("failed after the first failure", error=str(failure), exc_info=failure)
    if failures:
        raise failures[0]


async def _first_to_end(tasks: Sequence[asyncio.Task[None]], stop: asyncio.Event) -> list[Exception]:
    """Wait for ``stop`` or for the first of ``tasks`` to end; the failures of those that ended."""
    waiting = asyncio.create_task(stop.wait())
    await asyncio.wait([*tasks, waiting], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    failures = []
    for task in tasks:
        if not task.done():
            continue
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            failures.append(error)
        elif not stop.is_set():
            failures.append(RuntimeError(f"The part {task.get_name()!r} ended although nothing stopped it."))
    return failures


async def _drain(tasks: Sequence[asyncio.Task[None]], grace: float) -> list[Exception]:
    """Wait for ``tasks`` to end, ``grace`` seconds at most, then cancel them; what they raised."""
    if tasks and (late := (await asyncio.wait(tasks, timeout=grace))[1]):
        log.warning("parts did not drain in time", parts=[task.get_name() for task in late], seconds=grace)
        for task in late:
            task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    return [result for result in results if isinstance(result, Exception)]


async def unless_set(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Await ``work``; ``stop`` cancels it: a server that is away must not keep a process from stopping."""
    task, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        if not task.done():
            task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def settle_interpreter() -> None:
    """Freeze the start-up heap (torch, numba, the bundles) out of the garbage collector, raise its thresholds, and switch
    threads more often. Call once, when everything is wired.

    With its default thresholds the collector took a sixth of the time of decoding. With the default interval of 5 ms a thread
    waited that long for the interpreter after each of its many compiled calls: docs/performance.md has the figures.
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
