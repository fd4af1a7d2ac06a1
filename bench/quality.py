"""Detection quality on the labelled series: ``make bench-quality`` (TIDEWATCH_DATA names the folder of SET/SERIES.npz).

Runs the default ensemble at stride 1 and at the served stride, one bundle for all of SMD, and the TSB-AD protocol on SMD (train on
the normal prefix of the test split, score all of it). Prints tables, saves ``bench/results/quality.json``, ``quality.png`` and a
picture of every series.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console

from bench.quality_picture import draw
from service.app import make_detector
from service.detectors.bundle import save_bundle
from service.domain import Dataset
from service.settings import Settings
from service.sources.files import read_dataset
from service.training.evaluate import evaluate
from service.training.report import Report, tables
from service.training.train import train

SERVED_STRIDE = 10
# TSB-AD trains on a quarter of a series at most, and ends a hundred rows before its first anomaly.
PREFIX_SHARE, PREFIX_GAP = 0.25, 100


def one_bundle_for(folder: Path, settings: Settings, where: Path) -> Path:
    """Train one bundle on the train splits of every series in ``folder``."""
    parts = [read_dataset(path, split="train") for path in sorted(folder.glob("*.npz"))]
    dataset = Dataset(parts[0].schema, tuple(one for part in parts for one in part.series))
    options = settings.training.model_copy(update={"stride": 1})
    save_bundle(train(dataset, options, name=folder.name, detectors=options.detectors, factory=make_detector), where)
    return where


def as_tsb_ad_splits(folder: Path, into: Path) -> Path:
    """The series again, trained on the normal prefix of their test split as TSB-AD does."""
    target = into / folder.name
    target.mkdir(parents=True)
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as archive:
            test, label = archive["test"], archive["label"]
        prefix = min(int(len(test) * PREFIX_SHARE), int(np.flatnonzero(label)[0]) - PREFIX_GAP)
        np.savez(target / path.name, train=test[:prefix], test=test, label=label)
    return into


def main() -> None:
    """Run the parts asked for, all by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("TIDEWATCH_DATA"), required="TIDEWATCH_DATA" not in os.environ)
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--detector", help="one family alone, at stride 1")
    parser.add_argument("--only", choices=["each", "served", "together", "tsb-ad"], action="append")
    options = parser.parse_args()
    data, console, settings = Path(options.data), Console(width=200), Settings()
    parts = options.only or (["each"] if options.detector else ["each", "served", "together", "tsb-ad"])
    found: dict[str, Report] = {}

    def run(name: str, folder: Path, stride: int, **how: Path | None) -> None:
        found[name] = evaluate(
            folder,
            settings,
            factory=make_detector,
            detector=options.detector,
            stride=stride,
            budget_per_row=0.01,
            jobs=options.jobs,
            progress=lambda _, done=0, total=0, what="": console.print(f"{name}: {done}/{total} {what}", highlight=False),
            **how,
        )

    with tempfile.TemporaryDirectory() as scratch:
        if "each" in parts:
            run("each", data, 1, pictures=options.out / "quality-pictures")
        if "served" in parts:
            run("served", data, SERVED_STRIDE)
        if "together" in parts:
            run("together", data / "SMD", 1, bundle=one_bundle_for(data / "SMD", settings, Path(scratch) / "smd"))
        if "tsb-ad" in parts:
            run("tsb-ad", as_tsb_ad_splits(data / "SMD", Path(scratch) / "tsb-ad"), 1)
    for name, report in found.items():
        console.rule(name)
        for table in tables(report):
            console.print(table)
    options.out.mkdir(parents=True, exist_ok=True)
    merged = {name: json.loads(report.to_json()) for name, report in found.items()}
    name = f"quality-{options.detector}.json" if options.detector else "quality.json"
    (options.out / name).write_text(json.dumps(merged, indent=1), encoding="utf-8")
    draw(found, (options.out / name).with_suffix(".png"))
    console.print(f"Written to {options.out / name}")


if __name__ == "__main__":
    main()
