"""Background tasks that are watched: none ends without a log line, a red readiness and a new start.

A running process ends for nothing but a signal or its watchdog. So a task that ends by itself is started again, whatever ended
it; only what is found before the parts run (``Stop`` out of ``start``) ends the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from service.clock import Clock
from service.errors import Retry, Stop
from service.observability.health import Health
from service.observability.logging import get_logger

log = get_logger("tasks")

Work = Callable[[], Coroutine[Any, Any, None]]

CLOSE_SECONDS = 10.0  # for tasks that were cancelled and do not end
CAUSE_LENGTH = 300


def retrieve_exception(future: asyncio.Future[Any]) -> None:
    """Mark a future's exception as retrieved, for a future whose result is not used: asyncio logs those that are not retrieved."""
    if not future.cancelled():
        future.exception()


class BackgroundTasks:
    """The background tasks of one part. One that ends by itself, by an exception or a plain return, is a failure of its part.

    A failure is logged once with its cause. Until the task has recovered, ``health`` calls the part not ready, which stops the
    heartbeat too, and names the task and the cause. The task is started again after ``first_wait`` seconds; each further failure
    within ``longest_wait`` seconds of running doubles the wait, up to ``longest_wait``. A run that lasts longer than the wait
    before it has recovered.
    """

    def __init__(self, part: str, health: Health, clock: Clock, *, first_wait: float = 1.0, longest_wait: float = 60.0) -> None:
        self._part = part
        self._health = health
        self._clock = clock
        self._first_wait = first_wait
        self._longest_wait = longest_wait
        self._watched: dict[str, _Watched] = {}

    def start(self, name: str, work: Work) -> None:
        """Run ``work()`` in the background, again and again, until ``close``. Raises ``ValueError`` if ``name`` runs already."""
        if name in self._watched:
            raise ValueError(f"The part {self._part!r} runs a task {name!r} already.")
        watched = self._watched[name] = _Watched(work)
        watched.keeper = asyncio.create_task(self._keep(name, watched), name=f"keeper of {name}")

    async def close(self, *, drain: float = 0.0, within: float = CLOSE_SECONDS) -> None:
        """End all tasks. They may be started again afterwards.

        Tasks get ``drain`` seconds to return by themselves (for work that must not be cut off: the caller has told it to end);
        the rest are cancelled. One that has not ended ``within`` seconds of that is logged and left behind. What a task raises
        is logged and not raised.
        """
        closing, self._watched = self._watched, {}
        for watched in closing.values():
            watched.closing = True
            if watched.run is None and watched.keeper is not None:
                watched.keeper.cancel()  # it waits for its next start
        keepers = {watched.keeper: name for name, watched in closing.items() if watched.keeper is not None}
        if keepers and drain > 0:
            await asyncio.wait(keepers, timeout=drain)
        for keeper in keepers:
            keeper.cancel()
        if keepers and (late := (await asyncio.wait(keepers, timeout=within))[1]):
            names = sorted(keepers[keeper] for keeper in late)
            log.error("background tasks do not end; left behind", part=self._part, tasks=names, seconds=within)
        for name in closing:
            self._health.recovered(self._part, name)

    async def _keep(self, name: str, watched: _Watched) -> None:
        wait = 0.0
        logged: set[tuple[str, str]] = set()
        while not watched.closing:
            started = self._clock.monotonic()
            watched.run = asyncio.create_task(_run(watched.work), name=name)
            try:
                if wait:
                    await self._recover(name, watched.run, wait, logged)
                await asyncio.wait([watched.run])
            finally:
                if not watched.run.done():  # closed
                    watched.run.cancel()
                    await asyncio.wait([watched.run])
                error = _cause(watched.run)
                watched.run = None
                if watched.closing and error is not None and not isinstance(error, asyncio.CancelledError):
                    log.warning("background task failed while it was closed", part=self._part, task=name, cause=_text(error))
            if watched.closing:
                return
            lasted = self._clock.monotonic() - started
            wait = self._first_wait if not wait or lasted > self._longest_wait else min(wait * 2, self._longest_wait)
            self._fail(name, error, wait, logged)
            await self._clock.sleep(wait)

    async def _recover(self, name: str, run: asyncio.Task[None], wait: float, logged: set[tuple[str, str]]) -> None:
        """Return when the run has ended or has lasted longer than ``wait`` seconds: then it has recovered."""
        lasting = asyncio.create_task(self._clock.sleep(wait), name=f"recovery of {name}")
        try:
            await asyncio.wait([run, lasting], return_when=asyncio.FIRST_COMPLETED)
        finally:
            lasting.cancel()
        if not run.done():
            logged.clear()
            self._health.recovered(self._part, name)
            log.info("background task works again", part=self._part, task=name)

    def _fail(self, name: str, error: BaseException | None, wait: float, logged: set[tuple[str, str]]) -> None:
        cause = _text(error)
        self._health.failing(self._part, name, cause)
        if _origin(error) in logged:
            return
        logged.add(_origin(error))
        unexpected = None if error is None or isinstance(error, Retry | Stop | asyncio.CancelledError) else error
        tell = log.warning if isinstance(error, Retry) else log.error
        message = "background task ended; it is started again"
        tell(message, part=self._part, task=name, cause=cause, seconds=wait, exc_info=unexpected)


class _Watched:
    """One task: what it does, its present run (``None`` while it waits for the next), and the task that starts it again."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.run: asyncio.Task[None] | None = None
        self.keeper: asyncio.Task[None] | None = None
        self.closing = False


async def _run(work: Work) -> None:
    await work()


def _cause(run: asyncio.Task[None]) -> BaseException | None:
    """What ended a run: an exception, or ``None`` where it returned, or was cancelled by its owner."""
    if run.cancelled():
        return asyncio.CancelledError("cancelled from outside")
    return run.exception()


def _text(error: BaseException | None) -> str:
    """The cause in one bounded line, with what to do about it where that is known."""
    if error is None:
        return "it returned"
    text = " ".join(f"{type(error).__name__}: {error} {error.hint if isinstance(error, Stop) else ''}".split())
    return text if len(text) <= CAUSE_LENGTH else text[: CAUSE_LENGTH - 1] + "…"


def _origin(error: BaseException | None) -> tuple[str, str]:
    """What makes two failures the same: the type and the line that raised. Texts differ in offsets and addresses."""
    trace = None if error is None else error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return type(error).__name__, "" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
