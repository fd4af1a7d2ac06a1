"""``tidewatch run --workers N``: N processes of the same service, started and watched by a parent that does nothing else.

The workers are members of one consumer group: Kafka assigns the partitions to them, and they do not talk to each other. One that
dies is started again, after a wait that doubles while it does not last. One that exits with status 2 has found what restarting
cannot change (settings, a bundle, a missing topic): then all are stopped and the parent exits with 2 as well.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Mapping, Sequence

from service.observability.logging import get_logger

log = get_logger("supervisor")

WRONG_SETTINGS = 2  # the exit status of a ``Stop``, see errors.py
FIRST_WAIT = 0.5  # seconds before a worker is started again
LONGEST_WAIT = 30.0
LASTED_SECONDS = 60.0  # after a run of this length the wait is the first again
GRACE_SECONDS = 45.0  # longer than a worker gives its own parts


def worker_command(parts: Sequence[str]) -> list[str]:
    """The command of one worker; the path of the settings file is passed in the environment."""
    return [sys.executable, "-m", "service", "run", *(argument for part in parts for argument in ("--only", part))]


def worker_environments(port: int, workers: int) -> list[dict[str, str]]:
    """Each worker serves its own health, on ``port`` + its number, or on any free port where ``port`` is 0."""
    return [{"TIDEWATCH_HTTP__PORT": str(port + number if port else 0)} for number in range(workers)]


async def supervise(commands: Sequence[Sequence[str]], environments: Sequence[Mapping[str, str]], stop: asyncio.Event) -> int:
    """Keep one process of each command running until ``stop`` is set. Returns the exit status: 0, or 2 (see above).

    Each environment adds to our own. When ``stop`` is set every process gets SIGTERM, and SIGKILL after ``GRACE_SECONDS``.
    """
    wrong_settings = asyncio.Event()
    keepers = (
        _keep(number, command, environment, stop, wrong_settings)
        for number, (command, environment) in enumerate(zip(commands, environments, strict=True))
    )
    await asyncio.gather(*keepers)
    return WRONG_SETTINGS if wrong_settings.is_set() else 0


async def _keep(
    number: int, command: Sequence[str], environment: Mapping[str, str], stop: asyncio.Event, wrong_settings: asyncio.Event
) -> None:
    wait = FIRST_WAIT
    while not stop.is_set():
        # In a session of its own, so that Ctrl-C reaches only the parent, which sends each worker one SIGTERM.
        process = await asyncio.create_subprocess_exec(*command, env={**os.environ, **environment}, start_new_session=True)
        started = time.monotonic()
        log.info("worker started", worker=number, pid=process.pid)
        status = await _ended(process, stop)
        if stop.is_set():
            return
        if status == WRONG_SETTINGS:
            wrong_settings.set()
            stop.set()
            return
        wait = FIRST_WAIT if time.monotonic() - started > LASTED_SECONDS else min(wait * 2, LONGEST_WAIT)
        log.warning("worker ended; it is started again", worker=number, status=status, seconds=wait)
        await _first(stop.wait(), asyncio.sleep(wait))


async def _ended(process: asyncio.subprocess.Process, stop: asyncio.Event) -> int:
    """Wait for the process to end, or end it when ``stop`` is set; its exit status."""
    await _first(process.wait(), stop.wait())
    if process.returncode is None:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), GRACE_SECONDS)
        except TimeoutError:
            process.kill()
    return await process.wait()


async def _first(*work: object) -> None:
    """Wait for the first of these awaitables, and cancel the others."""
    tasks = [asyncio.ensure_future(one) for one in work]  # type: ignore[call-overload]  # coroutines of any result
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
