"""What the people on call would get on simulated fleets: ``python -m bench.fleet --seeds 2 4 6``.

The fleets and their judge are ``tools/fleet.py`` of TIDEWATCH_SHARED: twelve hosts of three roles with days, deploys, backups and
incidents, some of them soon after another on the same host. For every seed a bundle is trained for each role on the days before
``live_from``; the rest is scored and followed by the code that serves, with default settings. Scores are worked out once; other
budgets, and fixed thresholds on the same scores, are replayed over them. Prints a table and writes ``bench/results/fleet.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from service.alerts.lifecycle.episodes import Episodes
from service.app import make_detector
from service.detectors.bundle import Bundle
from service.detectors.decision import alert_budget, budget_params
from service.detectors.window_scorer import WindowScorer
from service.domain import F64, Alert, Dataset, Series, Status, Verdict
from service.settings import Settings
from service.sources.files import read_dataset
from service.training.rehearsal import batches, due_rows
from service.training.train import train

ROLES = ("web", "db", "batch")
LEAST_ROWS = 200  # of an entity before ``live_from``; with fewer it takes no part in training
BUDGETS = (1.0, 0.1)  # pages a day for each role
THRESHOLDS = (3.0, 3.4, 3.8, 4.0, 4.2, 4.5)

Levels = Callable[[Sequence[Verdict], "Scored"], "Decided"]


@dataclass(frozen=True)
class Decided:
    """Level, where severities begin, and whether anomalous of each verdict, all (n,)."""

    level: F64
    warning: F64
    critical: F64
    anomalous: Any


@dataclass(frozen=True)
class Scored:
    """One role's live days: the verdicts of every entity in row order, and what decides on them."""

    role: str
    bundle: Bundle
    entities: Mapping[str, Sequence[Verdict]]


@dataclass
class Outcome:
    """What the judge counted, summed over fleets."""

    found: int = 0
    there: int = 0
    false: int = 0
    entity_days: float = 0.0
    minutes: list[float] = field(default_factory=list)
    sorts: dict[str, list[int]] = field(default_factory=dict)


def judge_module(shared: Path) -> Any:
    """``tools/fleet.py`` of the shared folder, loaded from where it lies."""
    spec = importlib.util.spec_from_file_location("fleet", shared / "tools" / "fleet.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def score_role(folder: Path, role: str, live_from: int, settings: Settings) -> Scored:
    """Train on the days before ``live_from`` (ms) and score the rest."""
    dataset = read_dataset(folder / f"{role}.parquet")
    cut = live_from // dataset.schema.interval_ms
    before = [replace(one, values=one.values[: max(0, cut - one.start_row)], labels=None) for one in dataset.series]
    learn = [one for one in before if len(one.values) > LEAST_ROWS]
    bundle = train(
        Dataset(dataset.schema, learn),
        settings.training,
        name=role,
        detectors=settings.training.detectors,
        factory=make_detector,
    )
    scorer = WindowScorer(bundle, settings.detection, min_coverage=settings.stream.min_coverage, bounds=settings.alerts.bounds)
    verdicts: dict[str, list[Verdict]] = {}
    try:
        for one, past in zip(dataset.series, before, strict=True):
            history = min(len(past.values), bundle.window + bundle.stride - 1)
            first = max(0, cut - one.start_row)
            live = Series(one.entity, one.start_row + first, one.values[first:])
            values = one.values[first - history :]
            ends = due_rows(bundle, one.entity, live.start_row - history, values)
            for _, batch in batches(bundle, live, values, ends, history):
                verdicts.setdefault(one.entity, []).extend(await scorer.detect(batch))
    finally:
        scorer.close()
    return Scored(role, bundle, verdicts)


def by_budget(pages_a_day: float) -> Levels:
    """The serving tracker at a budget for the whole role."""

    def levels(verdicts: Sequence[Verdict], scored: Scored) -> Decided:
        params = scored.bundle.budget(pages_a_day / len(scored.entities))
        rows = np.array([one.end_row for one in verdicts], np.int64)
        surprises = np.array([one.surprise for one in verdicts])
        _, decided = alert_budget.steps([alert_budget.start(params)], np.zeros(len(rows), np.int64), rows, surprises, params)
        return Decided(decided.level, decided.warning, decided.critical, decided.is_anomaly)

    return levels


def by_threshold(surprise: float) -> Levels:
    """A level that never moves, and severities as far above it as where the default budget begins."""

    def levels(verdicts: Sequence[Verdict], scored: Scored) -> Decided:
        params = scored.bundle.budget(BUDGETS[0] / len(scored.entities))
        above = np.array([one.surprise > surprise for one in verdicts])
        at = np.full(len(verdicts), surprise)
        return Decided(at, at + params.warning.start, at + params.critical.start, above)

    return levels


def alerts_of(scored: Sequence[Scored], levels: Levels, settings: Settings) -> list[Alert]:
    """The newest state of every alert, with these levels in place of those that were served."""
    newest: dict[str, Alert] = {}
    for role in scored:
        for verdicts in role.entities.values():
            with_score = [one for one in verdicts if one.not_scored is None]
            decided = levels(with_score, role)
            replaced = [
                msgspec.structs.replace(
                    one, level=float(level), warning=float(warning), critical=float(critical), is_anomaly=bool(above)
                )
                for one, level, warning, critical, above in zip(
                    with_score, decided.level, decided.warning, decided.critical, decided.anomalous, strict=True
                )
            ]
            for alert in Episodes(settings.alerts).observe(replaced):
                newest[alert.alert_id] = alert
    return list(newest.values())


def as_judged(alert: Alert) -> dict[str, Any]:
    """One alert as the judge reads it."""
    return {
        "entity": alert.entity,
        "started_at": alert.started_at,
        "fired_at": alert.fired_at,
        "ended_at": alert.ended_at if alert.status is Status.RESOLVED else None,
        "severity": str(alert.peak_severity),
        "metrics": [metric.name for metric in alert.metrics],
    }


def judged(judge: Any, folder: Path, alerts: Sequence[Alert], into: Outcome) -> str:
    """Add what the judge says to ``into``; its table."""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as lines:
        lines.writelines(json.dumps(as_judged(alert)) + "\n" for alert in alerts)
        lines.flush()
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            judge.judge(folder, Path(lines.name))
    text = said.getvalue()
    ordinary = re.search(r"plain and second (\d+) of (\d+)", text)
    false = re.search(r"false (\d+) = ", text)
    assert ordinary is not None
    assert false is not None
    truth = json.loads((folder / "truth.json").read_text())
    into.found += int(ordinary[1])
    into.there += int(ordinary[2])
    into.false += int(false[1])
    into.entity_days += (truth["until"] - truth["live_from"]) / budget_params.MS_PER_DAY * len(truth["entities"])
    into.minutes += [float(found) for found in re.findall(r"^.{46} \S+ +(-?\d+\.\d)", text, re.MULTILINE)]
    for sort, found, there in re.findall(r"(\w+) (\d+)/(\d+)", text):
        counts = into.sorts.setdefault(sort, [0, 0])
        counts[0] += int(found)
        counts[1] += int(there)
    return text


def main() -> None:
    """Score the fleets of the seeds and print what each rule would have sent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    parser.add_argument("--details", action="store_true", help="print the judge's table at the default budget")
    options = parser.parse_args()
    shared = Path(os.environ.get("TIDEWATCH_SHARED", "../shared"))
    console, settings, judge = Console(width=160), Settings(), judge_module(shared)
    rules: dict[str, Levels] = {f"budget of {budget:g} pages a day for each role": by_budget(budget) for budget in BUDGETS}
    rules |= {f"fixed threshold {surprise:g}": by_threshold(surprise) for surprise in THRESHOLDS}
    outcomes = {name: Outcome() for name in rules}
    with tempfile.TemporaryDirectory(prefix="tidewatch-fleet-") as work:
        for seed in options.seeds:
            folder = Path(work) / str(seed)
            command = [sys.executable, str(shared / "tools" / "fleet.py"), "make", "--seed", str(seed), "--out", str(folder)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            live_from = json.loads((folder / "truth.json").read_text())["live_from"]
            scored = []
            for role in ROLES:
                console.print(f"seed {seed}: {role}", highlight=False)
                scored.append(asyncio.run(score_role(folder, role, live_from, settings)))
            for name, levels in rules.items():
                text = judged(judge, folder, alerts_of(scored, levels, settings), outcomes[name])
                if options.details and name == next(iter(rules)):
                    console.print(text, highlight=False, markup=False)
    table = Table("rule", "plain and second found", "false a day and entity", "median minutes to fire", "other sorts")
    for name, outcome in outcomes.items():
        others = ", ".join(f"{sort} {a}/{b}" for sort, (a, b) in outcome.sorts.items() if sort not in ("plain", "second"))
        ordinary = f"{outcome.found} of {outcome.there} ({outcome.found / max(outcome.there, 1):.3f})"
        minutes = f"{np.median(outcome.minutes):.1f}" if outcome.minutes else ""
        table.add_row(name, ordinary, f"{outcome.false / outcome.entity_days:.3f}", minutes, others)
    console.print(table)
    options.out.mkdir(parents=True, exist_ok=True)
    results = {name: vars(outcome) for name, outcome in outcomes.items()}
    (options.out / "fleet.json").write_text(json.dumps({"seeds": options.seeds, "rules": results}, indent=1))


if __name__ == "__main__":
    main()
