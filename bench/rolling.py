"""Two workers restarted one after the other under load: ``make bench-rolling``.

Measures the latency from produce to visible (``bench/latency.py``) over the minute that contains both restarts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console

from bench import latency
from bench.outage import prepare
from bench.scoring_process import ScoringProcess
from bench.workload import WINDOW, Workload, preload
from service.local.stack import LocalStack
from service.settings import Settings
from service.state.topics import create_topics

WORKLOAD = Workload(400, 38, 10)
FIRST, SECOND, SECONDS = 12.0, 34.0, 60.0
PATIENCE = 300.0

console = Console(width=140)  # wide enough for every table, in a file too


async def measure(stack: LocalStack, folder: Path, rate: float, *, restarts: bool) -> dict[str, float]:
    """Latency percentiles over a minute, with both workers restarted in it or not."""
    config = prepare(WORKLOAD, stack, folder, quick=True)
    kafka, warm = Settings(**config).kafka, WINDOW * WORKLOAD.entities
    await create_topics(kafka)
    await preload(WORKLOAD, kafka, WINDOW)
    async with AsyncExitStack() as running:
        workers = [ScoringProcess(config, folder) for _ in range(2)]
        holds = [await running.enter_async_context(AsyncExitStack()) for _ in workers]
        for worker, hold in zip(workers, holds, strict=True):
            await hold.enter_async_context(worker)
        while sum(await asyncio.gather(*(_consumed(worker) for worker in workers))) < warm:
            await asyncio.sleep(0.2)
        rolling = asyncio.create_task(_roll(config, folder, holds)) if restarts else None
        caught_up = rolling if rolling is not None else asyncio.sleep(0)
        return await latency.measure(WORKLOAD, kafka, WINDOW, int(rate * SECONDS / WORKLOAD.entities), rate, caught_up)


async def _consumed(worker: ScoringProcess) -> int:
    look = await worker.look()
    return look.consumed if look is not None else 0


async def _roll(config: dict[str, Any], folder: Path, holds: list[AsyncExitStack]) -> None:
    """Each worker drains and leaves, and only then its successor is started."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    for hold, at in zip(holds, (FIRST, SECOND), strict=True):
        await asyncio.sleep(began + at - loop.time())
        await hold.aclose()
        worker = ScoringProcess(config, folder)
        await hold.enter_async_context(worker)
        left = loop.time()
        await worker.until(lambda look: look.consumed > 0, PATIENCE)
        console.log(f"a worker was replaced; its successor scores {loop.time() - left:.1f} s after it was started")


def main() -> None:
    """Measure with and without restarts, print, save ``rolling.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=4000.0, help="samples a second")
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    asked = parser.parse_args()
    results: dict[str, dict[str, float]] = {}
    for name, restarts in (("both workers restarted", True), ("undisturbed", False)):
        with tempfile.TemporaryDirectory(prefix="tidewatch-rolling-") as folder:
            stack = LocalStack(Path(folder) / "stack")
            try:
                stack.start_kafka()
                results[name] = uvloop.run(measure(stack, Path(folder), asked.rate, restarts=restarts))
            finally:
                stack.down()
        told = ", ".join(f"{what} {value:,.0f}" for what, value in results[name].items())
        console.print(f"{name}, one minute: {told}")
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "rolling.json").write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
