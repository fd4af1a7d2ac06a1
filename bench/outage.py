"""How fast the service catches up after an outage: ``make bench-outage`` (``BENCH_ARGS="--samples 3600000"`` is an hour at 1,000
samples a second).

Three phases with the same number of samples, with faults in them: read from a full topic with every server up (the top speed);
scored while Elasticsearch is down, which is then started again; and queued while the service itself is down.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.table import Table

from bench.scoring_process import Counted, ScoringProcess
from bench.workload import WINDOW, Workload, preload
from service.app import make_detector
from service.detectors.bundle import save_bundle
from service.local.stack import LocalStack
from service.settings import Settings
from service.state.topics import create_topics
from service.training.train import train

WORKLOAD = Workload(200, 38, 10)
PARTS = ("scoring", "store")
FAULTS = 30_000  # rows between two of one entity: so many that its level stays
PATIENCE = 3600.0

console = Console(width=140)  # wide enough for every table, in a file too


def prepare(workload: Workload, stack: LocalStack, folder: Path, *, quick: bool) -> dict[str, Any]:
    """Train the bundle; the settings of the service."""
    bundle = folder / "bundle"
    training = Settings.model_validate(
        {"training": {"stride": workload.stride, "window": WINDOW} | ({"epochs": 3} if quick else {})}
    ).training
    save_bundle(train(workload.dataset(), training, name="bench", detectors=training.detectors, factory=make_detector), bundle)
    return {"kafka": {"bootstrap_servers": stack.kafka_servers}, "models": [{"match": "*", "bundle": str(bundle)}]}


async def measure(stack: LocalStack, folder: Path, samples: int) -> dict[str, float]:
    """All three phases. Speeds are samples (or transitions) a second."""
    config = prepare(WORKLOAD, stack, folder, quick=True) | {"elasticsearch": {"url": stack.elasticsearch_url}}
    kafka, rows = Settings(**config).kafka, max(WINDOW, samples // WORKLOAD.entities)
    queued, warm = rows * WORKLOAD.entities, WINDOW * WORKLOAD.entities
    await create_topics(kafka)
    told: dict[str, float] = {"samples_each": float(queued)}
    await preload(WORKLOAD, kafka, WINDOW + rows, faults=FAULTS)
    async with ScoringProcess(config, folder, PARTS) as process:
        console.log("all is well: the top speed")
        told["top_speed"] = _speed(await process.until_consumed(warm + queued, PATIENCE), warm, warm + queued)
        await process.until(lambda look: look.stored >= look.transitions, PATIENCE)
        told["rss_before_mb"] = process.rss_mb()
        console.log("Elasticsearch is away")
        await asyncio.to_thread(stack.stop_elasticsearch)
        await preload(WORKLOAD, kafka, rows, WINDOW + rows, faults=FAULTS)
        away = (await process.until_consumed(warm + 2 * queued, PATIENCE))[-1]
        told["rss_while_away_mb"] = process.rss_mb()
        told["transitions_queued"] = float(away.transitions - away.stored)
        console.log(f"{told['transitions_queued']:,.0f} transitions wait; Elasticsearch comes back")
        await asyncio.to_thread(stack.start_elasticsearch)
        back = time.perf_counter()
        stored = (await process.until(lambda look: look.stored >= look.transitions, PATIENCE))[-1]
        told["store_caught_up_s"] = stored.at - back
        told["stored_per_s"] = told["transitions_queued"] / told["store_caught_up_s"]
        told["peak_rss_mb"] = process.peak_rss_mb()
    console.log("the service is away")
    await preload(WORKLOAD, kafka, rows, WINDOW + 2 * rows, faults=FAULTS)
    async with ScoringProcess(config, folder, PARTS) as process:
        console.log("and comes back")
        began = time.perf_counter()
        looks = await process.until_consumed(queued, PATIENCE)
        await process.until(lambda look: look.stored >= look.transitions, PATIENCE)
        told["catch_up_speed"] = _speed(looks, 1, queued)
        told["caught_up_s"] = looks[-1].at - began
        told["peak_rss_mb"] = max(told["peak_rss_mb"], process.peak_rss_mb())
    told["ratio"] = told["catch_up_speed"] / told["top_speed"]
    return told


def _speed(looks: list[Counted], begin: int, end: int) -> float:
    """Records a second between the first poll that saw ``begin`` and the first that saw ``end``."""
    first = next(look for look in looks if look.consumed >= begin)
    last = next(look for look in looks if look.consumed >= end)
    return (last.consumed - first.consumed) / max(last.at - first.at, 1e-9)


def main() -> None:
    """Measure, print, save ``outage.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=60_000, help="samples of each phase; 3600000 is an hour at 1,000 a second")
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tidewatch-outage-") as folder:
        stack = LocalStack(Path(folder) / "stack")
        try:
            stack.up()
            told = uvloop.run(measure(stack, Path(folder), asked.samples))
        finally:
            stack.down()
    table = Table("what", "measured", title="An outage, and after")
    for name, value in told.items():
        table.add_row(name.replace("_", " "), f"{value:,.2f}" if value < 100 else f"{value:,.0f}")
    console.print(table)
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "outage.json").write_text(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
