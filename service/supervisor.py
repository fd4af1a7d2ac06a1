"""``tidewatch run --workers N``: the same service N times over, watched by a parent that does nothing else.

The workers are members of one consumer group, so Kafka shares the partitions out among them; there is nothing between them.
One that dies is started again, later each time it does not last. A worker that ends with status 2 has found something only a
person can change (settings, a bundle, a missing topic): then all stop and the parent ends with 2 as well.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Mapping, Sequence

from service.observability.logging import get_logger

log = get_logger("workers")

NEEDS_A_PERSON = 2
LASTED_SECONDS = 60.0  # a worker that ran for so long begins again at once
LONGEST_WAIT = 30.0
GRACE_SECONDS = 45.0  # longer than a worker gives its own parts


def worker_command(parts: Sequence[str]) -> list[str]:
    """What starts one worker; the settings file travels in the environment."""
    return [sys.executable, "-m", "service", "run", *(word for part in parts for word in ("--only", part))]


def worker_environments(port: int, workers: int) -> list[dict[str, str]]:
    """Each worker serves its own health: on ``port`` + its number, or on a free port each where ``port`` is 0."""
    return [{"TIDEWATCH_HTTP__PORT": str(port + at if port else 0)} for at in range(workers)]


async def supervise(commands: Sequence[Sequence[str]], environments: Sequence[Mapping[str, str]], stop: asyncio.Event) -> int:
    """Keep one process of each command alive until ``stop`` is set; the exit status of the whole: 0, or 2 (see above).

    The environments are laid over our own. When stopped every process gets SIGTERM, and SIGKILL after ``GRACE_SECONDS``.
    """
    broken = asyncio.Event()
    keepers = [
        asyncio.create_task(_keep(at, command, environment, stop, broken))
        for at, (command, environment) in enumerate(zip(commands, environments, strict=True))
    ]
    await asyncio.gather(*keepers)
    return NEEDS_A_PERSON if broken.is_set() else 0


async def _keep(
    at: int, command: Sequence[str], environment: Mapping[str, str], stop: asyncio.Event, broken: asyncio.Event
) -> None:
    wait = 0.5
    while not stop.is_set():
        # A group of its own: Ctrl-C reaches the parent alone, which passes it on once.
        process = await asyncio.create_subprocess_exec(*command, env={**os.environ, **environment}, start_new_session=True)
        began = time.monotonic()
        log.info("worker started", worker=at, pid=process.pid)
        status = await _ended(process, stop)
        if stop.is_set():
            return
        if status == NEEDS_A_PERSON:
            broken.set()
            stop.set()
            return
        wait = 0.5 if time.monotonic() - began > LASTED_SECONDS else min(wait * 2, LONGEST_WAIT)
        log.warning("worker ended; it is started again", worker=at, status=status, seconds=wait)
        await _first(stop.wait(), asyncio.sleep(wait))


async def _ended(process: asyncio.subprocess.Process, stop: asyncio.Event) -> int:
    """The status of the process, which is told to end when ``stop`` is set."""
    await _first(process.wait(), stop.wait())
    if process.returncode is None:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), GRACE_SECONDS)
        except TimeoutError:
            process.kill()
    return await process.wait()


async def _first(*work: object) -> None:
    tasks = [asyncio.ensure_future(one) for one in work]  # type: ignore[call-overload]  # coroutines of any result
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
