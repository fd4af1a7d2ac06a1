"""Detection quality on labelled series: train on the train split, score the test split through the code that serves.

Labels are read only after the last score is computed. Scores are causal: a row's score is that of the newest window
that was due at that row, which the service would have had then. The first test rows' windows reach back into the train split.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from service.detectors.bundle import Bundle, Factory, load_bundle
from service.detectors.decision import alert_budget, budget_params
from service.domain import Dataset, Series
from service.errors import DatasetError
from service.progress import Progress, silent
from service.settings import BudgetSettings, Settings
from service.sources.files import DEFAULT_INTERVAL_MS, read_dataset
from service.training import metrics
from service.training.pictures import draw
from service.training.rehearsal import Scored, score_series
from service.training.report import BudgetResult, Report, SeriesReport, summarise
from service.training.train import train

EARLY_ROWS = 50  # "caught early" is within this many rows of an event's start
# The budgets in every report, as false alarms per row and per day.
SHARES = {"1 % of rows": 0.01, "0.1 % of rows": 0.001}
PER_DAY = {"one a day": 1.0, "one a week": 1.0 / 7.0}


@dataclass(frozen=True, slots=True)
class Job:
    """One series to evaluate, and how; it is sent to the worker processes, so it must be picklable."""

    path: Path
    settings: Settings
    factory: Factory
    detector: str | None = None
    bundle: Path | None = None
    scores: Path | None = None
    pictures: Path | None = None

    @property
    def set_name(self) -> str:
        """The folder the series lies in."""
        return self.path.parent.name


def evaluate(
    data: Path,
    settings: Settings,
    *,
    factory: Factory,
    bundle: Path | None = None,
    detector: str | None = None,
    stride: int | None = None,
    budget_per_row: float | None = None,
    jobs: int = 1,
    scores: Path | None = None,
    pictures: Path | None = None,
    progress: Progress = silent,
) -> Report:
    """Evaluate ``data``: one labelled ``.npz``, or a folder of ``SET/SERIES.npz`` or ``SERIES.npz``.

    Without ``bundle`` each series trains its own on its train split, with ``detector`` alone where that is given and
    ``settings.training.detectors`` otherwise. ``stride`` replaces the training setting; ``budget_per_row`` (0.01: one row in
    a hundred) the budget. ``scores``: folder for ``SET/SERIES.npz`` with ``score`` and ``anomaly``; ``pictures``: folder for
    ``SET/SERIES.png``. ``progress("evaluate", done, total, series)``. ``factory`` must be importable when ``jobs`` > 1.

    Raises ``DatasetError`` when there is nothing labelled to evaluate, and what training and loading raise.
    """
    settings = _adjusted(settings, stride)
    started = time.perf_counter()
    if budget_per_row is not None:
        settings = _with_budget(settings, budget_per_row)
    work = [Job(path, settings, factory, detector, bundle, scores, pictures) for path in find_series(data)]
    results: list[SeriesReport] = []
    for done, result in enumerate(_in_order(work, jobs), start=1):
        results.append(result)
        progress("evaluate", done, len(work), f"{result.set}/{result.series}")
    results.sort(key=lambda one: (one.set, one.series))
    return summarise(results, seconds=time.perf_counter() - started)


def find_series(data: Path) -> list[Path]:
    """The ``.npz`` files of a folder (its own or its sub-folders'), or the one file. Raises ``DatasetError``."""
    if data.is_file():
        return [data]
    found = sorted([*data.glob("*/*.npz"), *data.glob("*.npz")])
    if not found:
        raise DatasetError(f"There is no series in {data}.", hint="Give a labelled .npz, or a folder of SET/SERIES.npz.")
    return found


def evaluate_series(job: Job) -> SeriesReport:
    """Train (or load), score, and only then read the labels. Writes the scores and the picture where asked to.

    Raises ``DatasetError`` for a series without labels, and what training and loading raise.
    """
    started = time.perf_counter()
    bundle = _bundle_for(job)
    trained = time.perf_counter() - started
    before = read_dataset(job.path, split="train").series[0]
    after = read_dataset(job.path, split="test", interval_ms=bundle.schema.interval_ms)
    test = after.series[0]
    scored = asyncio.run(score_series(bundle, job.settings, before, test))
    if job.scores is not None:
        folder = job.scores / job.set_name
        folder.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(folder / f"{job.path.stem}.npz", score=scored.surprise, anomaly=scored.anomaly)
    if test.labels is None:
        raise DatasetError(f"{job.path.name} has no labels.", hint="Evaluation needs an array `label`, one entry a test row.")
    result = measure(job, bundle, scored, test, trained, len(before.values))
    if job.pictures is not None:
        draw(
            result, scored.surprise, scored.level, test.labels, scored.anomaly, job.pictures / job.set_name / f"{job.path.stem}.png"
        )
    return result


def measure(job: Job, bundle: Bundle, scored: Scored, test: Series, train_seconds: float, train_rows: int) -> SeriesReport:
    """The figures of one series: its scores and alerts compared with the labels."""
    labels = test.labels
    assert labels is not None
    normal = labels == 0
    interval = bundle.schema.interval_ms
    flagged = int(scored.anomaly.sum())
    onsets = int((scored.anomaly & normal).sum())
    tail = bundle.calibration()
    rng = np.random.default_rng(0)
    due_normal = scored.due[normal[scored.due]]
    covered = metrics.extent(labels, scored.alerted)
    return SeriesReport(
        set=job.set_name,
        series=job.path.stem,
        dims=bundle.schema.dims,
        train_rows=train_rows,
        test_rows=len(labels),
        anomalous_share=float(labels.mean()),
        events=len(metrics.events(labels)),
        vus_pr=metrics.vus_pr(labels, scored.surprise),
        vus_pr_random=metrics.vus_pr(labels, rng.random(len(labels))),
        auc_pr=metrics.auc_pr(labels, scored.surprise),
        event_recall=metrics.event_recall(labels, scored.anomaly),
        event_recall_first50=metrics.event_recall(labels, scored.anomaly, within=EARLY_ROWS),
        event_recall_random=metrics.random_event_recall(labels, flagged),
        event_recall_first50_random=metrics.random_event_recall(labels, flagged, within=EARLY_ROWS),
        event_precision=metrics.event_precision(labels, scored.anomaly),
        false_positive_rate=metrics.false_positive_rate(labels, scored.anomaly),
        detection_delay=metrics.detection_delay(labels, scored.anomaly),
        alerts=flagged,
        alerts_per_entity_day=metrics.poisson_rate(onsets, float(normal.sum()) * interval / budget_params.MS_PER_DAY),
        fired=scored.fired,
        covered=covered.covered,
        outside=covered.outside,
        train_seconds=train_seconds,
        us_per_window=scored.seconds * 1e6,
        effective_windows=tail.n_eff,
        rarest=round(1 / tail.floor),
        reliability=metrics.reliability_table(10.0 ** -scored.surprise[due_normal], effective=tail.n_eff),
        reliability_adjusted=metrics.reliability_table(10.0 ** -scored.claimed[due_normal], effective=tail.n_eff),
        budgets=_budgets(scored, labels, bundle),
    )


def _budgets(scored: Scored, labels: object, bundle: Bundle) -> dict[str, BudgetResult]:
    """The same scores under other budgets: the tracker runs again over the windows that were due."""
    truth = np.asarray(labels)
    interval = bundle.schema.interval_ms
    rates = SHARES | {name: per_day * interval / budget_params.MS_PER_DAY for name, per_day in PER_DAY.items()}
    out = {}
    for name, rate in rates.items():
        params = bundle.budget(rate * budget_params.MS_PER_DAY / interval)
        slots = np.zeros(len(scored.due), np.int64)
        _, decisions = alert_budget.steps([alert_budget.start(params)], slots, scored.due, scored.surprise[scored.due], params)
        flags = np.zeros(len(truth), np.bool_)
        flags[scored.due[decisions.is_onset]] = True
        out[name] = BudgetResult(
            rate=rate,
            alerts=int(flags.sum()),
            on_normal=int((flags & (truth == 0)).sum()),
            normal_rows=int((truth == 0).sum()),
            event_recall=metrics.event_recall(truth, flags),
            event_recall_first50=metrics.event_recall(truth, flags, within=EARLY_ROWS),
            event_recall_random=metrics.random_event_recall(truth, int(flags.sum())),
            event_recall_first50_random=metrics.random_event_recall(truth, int(flags.sum()), within=EARLY_ROWS),
        )
    return out


def _bundle_for(job: Job) -> Bundle:
    if job.bundle is not None:
        return load_bundle(job.bundle, factory=job.factory)
    detectors: Mapping[str, object] = job.settings.training.detectors
    if job.detector is not None:
        detectors = {job.detector: detectors.get(job.detector, 1.0)}
    dataset: Dataset = read_dataset(job.path, split="train")
    return train(dataset, job.settings.training, name=job.path.stem, detectors=detectors, factory=job.factory)  # type: ignore[arg-type]  # narrowed copy of the same mapping


def _adjusted(settings: Settings, stride: int | None) -> Settings:
    if stride is None:
        return settings
    return settings.model_copy(update={"training": settings.training.model_copy(update={"stride": stride})})


def _with_budget(settings: Settings, per_row: float) -> Settings:
    # Archives have no times: the budget is given per row, and a row is as long as the reader takes it to be.
    per_day = per_row * budget_params.MS_PER_DAY / DEFAULT_INTERVAL_MS
    detection = settings.detection.model_copy(update={"budget": BudgetSettings(false_alarms_per_entity_day=per_day)})
    return settings.model_copy(update={"detection": detection})


def _in_order(work: Sequence[Job], jobs: int) -> Iterator[SeriesReport]:
    if jobs <= 1 or len(work) == 1:
        for job in work:
            yield evaluate_series(job)
        return
    # Largest first, so that no long one is left to the end; spawned, because forking a process with threads can deadlock.
    work = sorted(work, key=lambda job: -job.path.stat().st_size)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        for done in as_completed([pool.submit(evaluate_series, job) for job in work]):
            yield done.result()


def _one_thread() -> None:
    # One process per core: more threads in each only slow each other down. torch, loaded later, reads the variable.
    os.environ["OMP_NUM_THREADS"] = "1"
    threadpool_limits(1)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # a parent that was killed has not closed the pool; this process would wait for work for ever
