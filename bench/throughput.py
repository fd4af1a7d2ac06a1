"""How fast the whole path is on the local Kafka: ``make bench`` (``--quick`` is the smaller form that CI runs).

For each cell of the grid: train the default ensemble on a generated series, preload a topic, let ``tidewatch run --only scoring``
work it off, and check that every window due was scored once. The first cell is the reference: beside it stand the raw-ingest
rate on the same topic, River where it is installed, and the latency under live load. Fails only on wrong results.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from rich.console import Console

from bench import latency, peers
from bench.report import draw, show
from bench.scoring_process import Counted, ScoringProcess
from bench.workload import WINDOW, Workload, preload
from service.app import make_detector, open_bundle
from service.detectors.bundle import save_bundle
from service.local.stack import LocalStack
from service.settings import Settings, TopicSettings
from service.state.topics import create_topics
from service.training.train import train

REFERENCE = Workload(1000, 38, 10)
GRID = (
    REFERENCE,
    Workload(1, 38, 10),
    Workload(100, 38, 10),
    Workload(10_000, 38, 10),
    Workload(100, 8, 10),
    Workload(10_000, 8, 10),
    Workload(100_000, 8, 10),
    Workload(1000, 200, 10),
    Workload(1000, 38, 1),
    Workload(100, 8, 1),
)
QUICK = (Workload(40, 8, 10), Workload(40, 8, 1))
# Measured once the windows are full: at least so many records (a fifth at stride 1) and so many values. Without the latter, cells
# of few metrics would take seconds, in which one worker may join later than the other.
LEAST_RECORDS, LEAST_VALUES = 1_600_000, 40_000_000
LEAST_ROWS = 10
# Loads whose p99 is reported are long, so that one stall of some tenths of a second is less than a hundredth of the samples.
LATENCY_SECONDS, OVERLOAD_SECONDS = 60.0, 20.0
QUIET_SECONDS = 10.0
GOAL = 150_000  # samples a second
QUICK_RECORDS = 4000
WORK_SECONDS = 900.0

console = Console(width=140)  # wide enough for every table, in a file too


class Bench:
    """One Kafka, one folder; bundles are trained once for each number of metrics and stride."""

    def __init__(self, folder: Path, servers: str, *, quick: bool, workers: int) -> None:
        self._workers = workers
        self._folder, self._servers, self._quick = folder, servers, quick
        self._bundles: dict[tuple[int, int], Path] = {}

    async def run(self, grid: tuple[Workload, ...]) -> dict[str, Any]:
        """All cells; the first with everything that is compared with it."""
        results: dict[str, Any] = {
            "workers": self._workers,
            "machine": f"{platform.machine()}, {platform.system()}",
            "grid": [],
            "latency": [],
        }
        for at, workload in enumerate(grid):
            console.print(f"[dim]{workload.name}[/]")
            results["grid"].append(await self._cell(workload, results, reference=at == 0))
        return results

    async def _cell(self, workload: Workload, results: dict[str, Any], *, reference: bool) -> dict[str, Any]:
        rows = self._rows(workload)
        config = self._config(workload)
        settings = Settings(**config)
        await create_topics(settings.kafka)
        await preload(workload, settings.kafka, rows)
        raw = [await self._raw(workload, settings, rows)] if reference else []
        windows = self._windows(workload, rows, rows)
        async with ScoringProcess(config, self._folder, workers=self._workers) as process:
            cell = await self._throughput(workload, process, rows, windows)
            if reference:
                if not self._quick:
                    results["latency"] = await self._latency(workload, settings, process, rows, cell["samples_per_s"])
                results["peak_rss_mb"] = process.peak_rss_mb()
        if reference:
            raw.append(await self._raw(workload, settings, rows))  # before and after: the machine's speed varies
            results |= {name: sum(one[name] for one in raw) / len(raw) for name in raw[0]}
            results |= _compared(results, cell, peers.river_half_space_trees(workload.values()))
        return cell

    async def _throughput(self, workload: Workload, process: ScoringProcess, rows: int, windows: int) -> dict[str, Any]:
        total = workload.entities * rows
        looks = await process.until(lambda look: look.consumed >= total and look.scored >= windows, WORK_SECONDS)
        # From a quarter on: every worker has joined by then. The speed is that between two polls, counted in windows, because a
        # worker that joins reads again what its windows need.
        begin, end = next(look for look in looks if look.scored >= windows / 4), looks[-1]
        _check(workload, windows, end)
        seconds = max(end.at - begin.at, 1e-9)
        # A window counts for a stride of samples, less where some are due early.
        samples = max((end.scored - begin.scored) * workload.entities * (rows - WINDOW + 1) / windows, 1.0)
        return {
            "entities": workload.entities,
            "dims": workload.dims,
            "stride": workload.stride,
            "samples_per_s": samples / seconds,
            "windows_per_s": (end.scored - begin.scored) / seconds,
            "cpu_seconds_per_million": (end.cpu_seconds - begin.cpu_seconds) / samples * 1e6,
            "peak_rss_mb": process.peak_rss_mb(),
            "loop_lag_ms": end.most_lag_ms(begin),
        }

    async def _latency(
        self, workload: Workload, settings: Settings, process: ScoringProcess, rows: int, top: float
    ) -> list[dict[str, Any]]:
        measured, calm, row = [], rows, rows
        loads = {
            "50% of the top speed": (0.5 * top, LATENCY_SECONDS),
            "90% of the top speed": (0.9 * top, OVERLOAD_SECONDS),
            "half of the goal": (GOAL / 2, LATENCY_SECONDS),
        }
        for load, (rate, seconds) in loads.items():
            # Wait until Kafka has written the preloaded topic to disk; it would otherwise do so in the middle of the first load,
            # half a minute after the topic was produced.
            await asyncio.to_thread(os.sync)
            await asyncio.sleep(QUIET_SECONDS)
            more = max(30, int(rate * seconds) // workload.entities)
            row += more
            windows = self._windows(workload, row, calm)
            caught_up = process.until(_scored(windows), WORK_SECONDS)
            told = await latency.measure(workload, settings.kafka, row - more, more, rate, caught_up)
            _check(workload, windows, (await process.until(_scored(windows), WORK_SECONDS))[-1])
            measured.append({"load": load, **told})
        return measured

    async def _raw(self, workload: Workload, settings: Settings, rows: int) -> dict[str, float]:
        command = [sys.executable, "-m", "bench.raw_ingest", "--servers", self._servers, "--topic", settings.kafka.topics.metrics]
        command += ["--dims", str(workload.dims), "--entities", str(workload.entities), "--records", str(rows * workload.entities)]
        command += ["--partitions", str(settings.kafka.topics.partitions)]
        done = await asyncio.to_thread(subprocess.run, command, stdout=subprocess.PIPE, check=True)
        told = msgspec.json.decode(done.stdout, type=dict[str, float])
        return {
            "raw_ingest_samples_per_s": told["records"] / told["seconds"],
            "raw_ingest_cpu_seconds_per_million": told["cpu_seconds"] / told["records"] * 1e6,
        }

    def _rows(self, workload: Workload) -> int:
        wanted = QUICK_RECORDS
        if not self._quick:
            wanted = max(LEAST_RECORDS, LEAST_VALUES // workload.dims) // (5 if workload.stride == 1 else 1)
        return WINDOW + max(LEAST_ROWS, wanted // workload.entities)

    def _windows(self, workload: Workload, rows: int, calm: int) -> int:
        return workload.windows(open_bundle(self._bundle(workload)), rows, calm)

    def _config(self, workload: Workload) -> dict[str, Any]:
        names = [name for name, field in TopicSettings.model_fields.items() if field.annotation is str]
        topics = {name: f"{workload.name}.{name}" for name in names}
        return {
            "kafka": {"bootstrap_servers": self._servers, "group_prefix": workload.name, "topics": topics},
            "models": [{"match": "*", "bundle": str(self._bundle(workload))}],
        }

    def _bundle(self, workload: Workload) -> Path:
        key = (workload.dims, workload.stride)
        if key not in self._bundles:
            told = {"stride": workload.stride, "window": WINDOW} | ({"epochs": 3} if self._quick else {})
            training = Settings.model_validate({"training": told}).training
            made = train(workload.dataset(), training, name="bench", detectors=training.detectors, factory=make_detector)
            self._bundles[key] = self._folder / f"bundle-{workload.dims}-{workload.stride}"
            save_bundle(made, self._bundles[key])
        return self._bundles[key]


def _scored(windows: int) -> Callable[[Counted], bool]:
    return lambda look: look.scored >= windows


def _check(workload: Workload, windows: int, end: Counted) -> None:
    """Every due window was scored once; nothing was rejected. Raises ``SystemExit`` saying what is wrong."""
    # Not the records read: a worker that joins a moment after another reads again what its windows need.
    wanted = (windows, 0, 0)
    counted = (end.scored, end.not_scored, end.rejected)
    if counted != wanted:
        names = ("windows scored", "windows not scored", "records refused")
        wrong = [f"{name}: {is_} instead of {want}" for name, is_, want in zip(names, counted, wanted, strict=True) if is_ != want]
        raise SystemExit(f"Wrong results in {workload.name}: {'; '.join(wrong)}.")


def _compared(results: dict[str, Any], cell: dict[str, Any], river: dict[str, float] | None) -> dict[str, Any]:
    speed, half = cell["samples_per_s"], results["latency"][0] if results["latency"] else {}
    raw_cpu = results["raw_ingest_cpu_seconds_per_million"]
    return {
        "end_to_end_samples_per_s": speed,
        "river": river,
        "river_samples_per_s": river["scoring"] if river else None,
        "ratio_raw": speed / results["raw_ingest_samples_per_s"],
        "ratio_river": speed / river["scoring"] if river else None,
        # CPU time relative to raw ingest does not depend on other users of the machine; the target corresponds to 4 on two cores.
        "cpu_ratio_raw": cell["cpu_seconds_per_million"] / raw_cpu,
        "p50_ms": half.get("p50_ms"),
        "p99_ms": half.get("p99_ms"),
    }


def main() -> None:
    """Measure, print, save ``throughput.json`` and a picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small grid without the latency runs, for CI")
    parser.add_argument("--only-reference", action="store_true", help="the first cell of the grid alone")
    parser.add_argument("--workers", type=int, default=2, help="as of tidewatch run; one a core is the fastest")
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    told = parser.parse_args()
    grid = QUICK if told.quick else GRID[:1] if told.only_reference else GRID
    with tempfile.TemporaryDirectory(prefix="tidewatch-bench-") as folder:
        stack = LocalStack(Path(folder) / "stack")
        try:
            stack.start_kafka()
            results = uvloop.run(Bench(Path(folder), stack.kafka_servers, quick=told.quick, workers=told.workers).run(grid))
        finally:
            stack.down()
    show(results, console)
    told.out.mkdir(parents=True, exist_ok=True)
    (told.out / "throughput.json").write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=2))
    draw(results, told.out / "throughput.png")
    console.print(f"Saved {told.out / 'throughput.json'} and throughput.png.")


if __name__ == "__main__":
    main()
