"""Evaluation: through the serving path, causal, blind to labels until the end, the same in every shape of work."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from service.app import make_detector
from service.detectors.bundle import save_bundle
from service.domain import F32, phase_of
from service.errors import DatasetError
from service.settings import Settings
from service.sources.files import read_dataset
from service.training.evaluate import evaluate
from service.training.rehearsal import due_rows
from service.training.report import Report, tables
from service.training.train import train

SETTINGS = Settings().model_copy(update={"training": Settings().training.model_copy(update={"window": 40})})


def series(rows: int, seed: int) -> F32:
    rng = np.random.default_rng(seed)
    turn = np.arange(rows)[:, None] * np.array([0.2, 0.2, 0.05, 0.4])
    rows_of: F32 = (np.sin(turn) + 0.1 * rng.standard_normal((rows, 4))).astype(np.float32)
    return rows_of


def write(path: Path, seed: int, *, tail_shift: float = 0.0, labelled: bool = True, marked: bool = True) -> Path:
    test = series(600, seed + 100)
    label = np.zeros(600, np.uint8)
    for start in (150, 400):
        test[start : start + 30, 1] += 4.0
        label[start : start + 30] = marked
    test[500:] += tail_shift
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, NDArray[np.generic]] = {"train": series(1500, seed), "test": test}
    np.savez(path, **(arrays | {"label": label} if labelled else arrays))  # type: ignore[arg-type]  # the stub takes no mapping
    return path


def run(data: Path, stride: int = 1, jobs: int = 1, scores: Path | None = None, bundle: Path | None = None) -> Report:
    return evaluate(
        data,
        SETTINGS,
        factory=make_detector,
        detector="mahalanobis",
        stride=stride,
        budget_per_row=0.01,
        jobs=jobs,
        scores=scores,
        bundle=bundle,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("labelled")
    for at, name in enumerate(["A/one.npz", "A/two.npz", "B/three.npz"]):
        write(root / name, seed=at)
    return root


def test_the_report_says_what_was_caught(folder: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int, str]] = []
    report = evaluate(
        folder,
        SETTINGS,
        factory=make_detector,
        detector="mahalanobis",
        stride=1,
        budget_per_row=0.01,
        scores=tmp_path / "scores",
        pictures=tmp_path / "pictures",
        progress=lambda *report: seen.append(report),
    )
    assert [(one.set, one.series) for one in report.series] == [("A", "one"), ("A", "two"), ("B", "three")]
    assert seen[-1] == ("evaluate", 3, 3, "B/three")
    for one in report.series:
        assert one.vus_pr > 0.5 > 0.4 > one.vus_pr_random
        assert one.event_recall == one.event_recall_first50 == 1.0
        assert one.detection_delay < 5
        assert one.false_positive_rate < 0.02
        assert set(one.budgets) == {"1 % of rows", "0.1 % of rows", "one a day", "one a week"}
        # The budget asked for, computed again from the same scores in another way.
        assert one.budgets["1 % of rows"].alerts == one.alerts
        kept = np.load(tmp_path / "scores" / one.set / f"{one.series}.npz")
        assert kept["score"].shape == kept["anomaly"].shape == (600,)
        assert kept["score"].dtype == np.float64
        assert kept["anomaly"].dtype == np.bool_
        assert int(kept["anomaly"].sum()) == one.alerts
        assert (tmp_path / "pictures" / one.set / f"{one.series}.png").stat().st_size > 10_000
    written = json.loads(report.to_json())
    mean = {name: np.mean([one.vus_pr for one in report.series if one.set == name]) for name in "AB"}
    assert written["macro_vus_pr"] == pytest.approx(np.mean(list(mean.values())))
    assert written["macro_vus_pr_without"]["A"] == pytest.approx(mean["B"])
    asked = "set series vus_pr auc_pr event_recall event_recall_first50 event_precision false_positive_rate detection_delay alerts"
    assert set(f"{asked} train_seconds us_per_window".split()) <= set(written["series"][0])
    assert [table.row_count for table in tables(report)] == [3, 6, 4, 6]
    narrow = Console(width=80, file=io.StringIO(), record=True)
    narrow.print(*tables(report)[1:])
    assert "…" not in narrow.export_text()  # nothing is cut off in a terminal as narrow as they come


def test_scores_are_causal_and_labels_are_not_looked_at(folder: Path, tmp_path: Path) -> None:
    later = write(tmp_path / "changed" / "A" / "one.npz", seed=0, tail_shift=3.0, marked=False)
    run(folder / "A" / "one.npz", scores=tmp_path / "first")
    report = run(later, scores=tmp_path / "second")
    first, second = (np.load(tmp_path / name / "A" / "one.npz") for name in ("first", "second"))
    assert np.array_equal(first["score"][:500], second["score"][:500])
    assert np.array_equal(first["anomaly"][:500], second["anomaly"][:500])
    assert not np.array_equal(first["score"][500:], second["score"][500:])
    assert math.isnan(report.series[0].vus_pr)  # nothing labelled, nothing claimed


def test_between_windows_the_last_score_holds(folder: Path, tmp_path: Path) -> None:
    run(folder / "A" / "one.npz", stride=10, scores=tmp_path)
    kept = np.load(tmp_path / "A" / "one.npz")
    dataset = read_dataset(folder / "A" / "one.npz", split="train")
    bundle = train(dataset, SETTINGS.training, name="one", detectors={"mahalanobis": 1.0}, factory=make_detector)
    values = np.concatenate([dataset.series[0].values, np.load(folder / "A" / "one.npz")["test"]])
    due = due_rows(bundle, "one", 0, values) - 1500
    changes = np.flatnonzero(np.diff(kept["score"])) + 1
    assert set(changes) <= set(due)
    assert len(changes) > 50
    assert set(changes) - {row for row in range(600) if (row + 1500 + phase_of("one")) % 10 == 0}  # some are early
    assert set(np.flatnonzero(kept["anomaly"])) <= set(due)
    assert np.isfinite(kept["score"]).all()  # rows before the first due window have the last score of the train split


def test_two_processes_find_what_one_finds(folder: Path) -> None:
    alone, together = run(folder), run(folder, jobs=2)
    for one, other in zip(alone.series, together.series, strict=True):
        assert one.vus_pr == pytest.approx(other.vus_pr, abs=1e-6)
        assert one.alerts == other.alerts


def test_a_trained_bundle_is_used_as_it_is(folder: Path, tmp_path: Path) -> None:
    dataset = read_dataset(folder / "A" / "one.npz", split="train")
    options = SETTINGS.training.model_copy(update={"stride": 1})
    save_bundle(train(dataset, options, name="one", detectors={"mahalanobis": 1.0}, factory=make_detector), tmp_path / "bundle")
    trained, loaded = run(folder / "A" / "one.npz"), run(folder / "A" / "one.npz", bundle=tmp_path / "bundle")
    assert loaded.series[0].vus_pr == trained.series[0].vus_pr


def test_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no series"):
        run(tmp_path)
    with pytest.raises(DatasetError, match="no labels"):
        run(write(tmp_path / "A" / "plain.npz", seed=1, labelled=False))
