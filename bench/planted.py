"""Planted faults in held-out normal data, through the serving code: ``python -m bench.planted`` (``TIDEWATCH_DATA`` names the
folder of series).

In the newest fifth of each train split, which training did not see, one metric that moves is offset by 5 MAD, frozen, or replaced
by another stretch of itself (where it is closely correlated with another), for 100 rows. A plant is *found* when a window that
ends in those rows is called anomalous at the budget, and *named* when also the metric is among the first three of the strongest
such window. The budget tracker has seen the rows before. "By chance" is the same over the same rows without the plant: at one row
in a hundred, most stretches of 100 rows hold an alarm anyway, so only the named ones mean anything there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from service.app import make_detector
from service.detectors.bundle import Bundle
from service.detectors.window_scorer import WindowScorer
from service.domain import F32, Dataset, Series, Verdict
from service.settings import BudgetSettings, DetectionSettings, Settings
from service.sources.files import DEFAULT_INTERVAL_MS, read_dataset
from service.training.rehearsal import batches, due_rows
from service.training.train import train

SETS = ("SMD", "ASD", "JumpStarter2")  # those with at least 19 metrics that take more than two values
KINDS = ("offset", "freeze", "correlation")
BUDGETS = {"1 % of rows": 0.01, "0.1 % of rows": 0.001}
FAULT_ROWS, BEFORE_ROWS = 100, 600
MADS = 5.0
CLOSE = 0.8  # correlation with another metric that counts as close


def movers(fit: F32, rest: F32, *, related: bool) -> list[int]:
    """Metrics that change in most rows; with ``related`` only those closely correlated with another."""
    still = 1e-9 * np.random.default_rng(0).standard_normal(fit.T.shape)
    correlation = np.abs(np.corrcoef(fit.T + still))
    np.fill_diagonal(correlation, 0)
    moving = np.min([(np.diff(part, axis=0) != 0).mean(axis=0) for part in (fit, rest)], axis=0) > CLOSE
    spread = np.median(np.abs(fit - np.median(fit, axis=0)), axis=0) > 0
    return np.flatnonzero(moving & spread & (correlation.max(axis=0) > CLOSE if related else True)).tolist()


def plant(rows: F32, metric: int, kind: str, mad: float, other: F32) -> F32:
    """``rows`` with a fault in its last ``FAULT_ROWS``; ``other``: the stretch that takes their place in a broken correlation."""
    out, start = rows.copy(), len(rows) - FAULT_ROWS
    if kind == "offset":
        out[start:, metric] += MADS * mad
    elif kind == "freeze":
        out[start:, metric] = out[start, metric]
    else:
        out[start:, metric] = other[:, metric]
    return out


def verdicts_on_fault(bundle: Bundle, detector: WindowScorer, rows: F32) -> list[Verdict]:
    """The verdict on every due window that ends in the last ``FAULT_ROWS`` of ``rows``."""
    series = Series("planted", 0, rows)
    ends = due_rows(bundle, series.entity, 0, rows)

    async def score() -> list[Verdict]:
        detector.forget([series.entity])
        return [verdict for _, batch in batches(bundle, series, rows, ends, 0) for verdict in await detector.detect(batch)]

    return [one for one in asyncio.run(score()) if one.end_row >= len(rows) - FAULT_ROWS]


class PlantOutcome(NamedTuple):
    """Whether one plant was found and named, and whether the same rows without it were."""

    found: bool
    named: bool
    chance: bool
    chance_named: bool


def found_and_named(verdicts: Sequence[Verdict], metric: str) -> tuple[bool, bool]:
    """Whether a window is anomalous, and whether the strongest of them names ``metric`` among its first three."""
    anomalous = [one for one in verdicts if one.is_anomaly]
    if not anomalous:
        return False, False
    strongest = max(anomalous, key=lambda one: one.surprise)
    return True, metric in [share.name for share in strongest.metrics[:3]]


def series_outcomes(path: Path, settings: Settings, each: int, seed: int = 1) -> dict[str, dict[str, list[PlantOutcome]]]:
    """The outcomes of ``each`` plants of every kind in one series, by budget and kind."""
    whole = read_dataset(path, split="train")
    values = whole.series[0].values
    cut = int(len(values) * 0.8)
    known = Dataset(whole.schema, (replace(whole.series[0], values=values[:cut], labels=None),))
    bundle = train(known, settings.training, name=path.stem, detectors=settings.training.detectors, factory=make_detector)
    mads = np.median(np.abs(values[:cut] - np.median(values[:cut], axis=0)), axis=0)
    found: dict[str, dict[str, list[PlantOutcome]]] = {}
    for budget, rate in BUDGETS.items():
        per_day = rate * 86_400_000 / DEFAULT_INTERVAL_MS
        detection = DetectionSettings(budget=BudgetSettings(false_alarms_per_entity_day=per_day))
        detector = WindowScorer(bundle, detection)
        for kind in KINDS:
            pool, rng = movers(values[:cut], values[cut:], related=kind == "correlation"), np.random.default_rng(seed)
            for _ in range(each if pool else 0):
                metric, at = int(rng.choice(pool)), int(rng.integers(cut + bundle.window, len(values) - FAULT_ROWS))
                other = int(rng.integers(cut, len(values) - FAULT_ROWS))
                clean = values[max(at - BEFORE_ROWS, cut - bundle.window) : at + FAULT_ROWS]
                faulty = plant(clean, metric, kind, float(mads[metric]), values[other : other + FAULT_ROWS])
                name = bundle.schema.metrics[metric]
                with_fault = found_and_named(verdicts_on_fault(bundle, detector, faulty), name)
                without = found_and_named(verdicts_on_fault(bundle, detector, clean), name)
                found.setdefault(budget, {}).setdefault(kind, []).append(PlantOutcome(*with_fault, *without))
        detector.close()
    return found


def main() -> None:
    """Plant, score, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("TIDEWATCH_DATA"), required="TIDEWATCH_DATA" not in os.environ)
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    parser.add_argument("--each", type=int, default=10, help="plants of each kind in each series")
    parser.add_argument("--stride", type=int, default=1)
    options = parser.parse_args()
    settings, console = Settings(), Console(width=200)
    settings = settings.model_copy(update={"training": settings.training.model_copy(update={"stride": options.stride})})
    pooled: dict[str, dict[str, list[PlantOutcome]]] = {}
    for path in [path for name in SETS for path in sorted((Path(options.data) / name).glob("*.npz"))]:
        for budget, kinds in series_outcomes(path, settings, options.each).items():
            for kind, outcomes in kinds.items():
                pooled.setdefault(budget, {}).setdefault(kind, []).extend(outcomes)
        console.print(f"{path.parent.name}/{path.stem}", highlight=False)
    results = {budget: {kind: shares(outcomes) for kind, outcomes in kinds.items()} for budget, kinds in pooled.items()}
    for budget, by_kind in results.items():
        table = Table(title=f"planted faults at a budget of {budget}, stride {options.stride}")
        for column in ("fault", "plants", "found", "found and named", "found by chance", "named by chance"):
            table.add_column(column)
        for kind, one in by_kind.items():
            table.add_row(kind, str(one["plants"]), *(f"{one[key]:.2f}" for key in ("found", "named", "chance", "chance_named")))
        console.print(table)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "planted.json").write_text(json.dumps(results, indent=1), encoding="utf-8")


def shares(outcomes: Sequence[PlantOutcome]) -> Mapping[str, Any]:
    """The share of plants with each outcome."""
    means = np.mean(np.array(outcomes, np.float64), axis=0).tolist()
    return {"plants": len(outcomes)} | PlantOutcome(*means)._asdict()


if __name__ == "__main__":
    main()
