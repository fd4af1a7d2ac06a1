"""``run --workers``: who is started again, who ends everything, who is told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from service.supervisor import supervise, worker_environments

# Notes its own start, then lives until SIGTERM, which it notes too.
LIVING = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def stop(number, frame):
    (folder / f"stopped-{os.getpid()}").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
(folder / f"started-{os.environ['WORKER']}-{os.getpid()}").touch()
while True:
    time.sleep(0.05)
"""


def _marks(folder: Path, what: str) -> list[Path]:
    return sorted(folder.glob(f"{what}-*"))


async def _until_started(folder: Path, count: int) -> list[Path]:
    async with asyncio.timeout(60):
        while len(_marks(folder, "started")) < count:
            await asyncio.sleep(0.05)
    return _marks(folder, "started")


def _pid(path: Path) -> int:
    return int(path.name.rsplit("-", 1)[1])


async def test_a_worker_that_dies_is_started_again_and_all_are_told_to_stop(tmp_path: Path) -> None:
    stop = asyncio.Event()
    command = [sys.executable, "-c", LIVING, str(tmp_path)]
    running = asyncio.create_task(supervise([command] * 2, [{"WORKER": "0"}, {"WORKER": "1"}], stop))
    first = await _until_started(tmp_path, 2)
    os.kill(_pid(first[0]), signal.SIGKILL)
    every = await _until_started(tmp_path, 3)
    assert [path.name[:9] for path in every] == ["started-0", "started-0", "started-1"]
    stop.set()
    assert await running == 0
    assert {_pid(path) for path in _marks(tmp_path, "stopped")} == {_pid(path) for path in every} - {_pid(first[0])}


async def test_what_only_a_person_can_change_stops_all(tmp_path: Path) -> None:
    broken = [sys.executable, "-c", "import sys; sys.exit(2)"]
    living = [sys.executable, "-c", LIVING, str(tmp_path)]
    assert await supervise([living, broken], [{"WORKER": "0"}, {}], asyncio.Event()) == 2


def test_each_worker_serves_its_own_health() -> None:
    assert [one["TIDEWATCH_HTTP__PORT"] for one in worker_environments(8080, 3)] == ["8080", "8081", "8082"]
    assert [one["TIDEWATCH_HTTP__PORT"] for one in worker_environments(0, 2)] == ["0", "0"]
