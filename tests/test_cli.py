"""The command line as a newcomer meets it: help with an example, and every error one sentence with what to do next."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer

from service.cli import app

NOWHERE = {
    "TIDEWATCH_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:9",
    "TIDEWATCH_KAFKA__CONNECT_TIMEOUT_SECONDS": "1",
    "TIDEWATCH_ELASTICSEARCH__URL": "http://127.0.0.1:9",
}


def commands(group: typer.core.TyperGroup, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name, command in group.commands.items():
        found.append((*path, name))
        if isinstance(command, typer.core.TyperGroup):
            found += commands(command, (*path, name))
    return found


ROOT = typer.main.get_command(app)
assert isinstance(ROOT, typer.core.TyperGroup)
ALL = commands(ROOT)


def tidewatch(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("TIDEWATCH_")} | environment
    repository = str(Path(__file__).parent.parent)
    environ["PYTHONPATH"] = repository
    return subprocess.run(
        [sys.executable, "-m", "service", *words], cwd=cwd, env=environ, capture_output=True, text=True, timeout=170, check=False
    )


def find(path: tuple[str, ...]) -> typer.core.TyperCommand | typer.core.TyperGroup:
    command = ROOT
    for name in path:
        assert isinstance(command, typer.core.TyperGroup)
        command = command.commands[name]
    assert isinstance(command, typer.core.TyperCommand | typer.core.TyperGroup)
    return command


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_command_says_what_it_does_with_an_example(path: tuple[str, ...]) -> None:
    command = find(path)
    assert command.help
    if isinstance(command, typer.core.TyperCommand):
        assert "tidewatch " + " ".join(path) in f"{command.epilog} {command.help}", "its help should show an example"
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{parameter.name} is not explained"


def test_the_help_is_printed_without_loading_anything_heavy(tmp_path: Path) -> None:
    heavy = "import sys, service.cli; print([m for m in ('numba', 'sklearn', 'torch', 'aiokafka', 'fastapi') if m in sys.modules])"
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    out = subprocess.run(
        [sys.executable, "-c", heavy], cwd=tmp_path, env=environ, capture_output=True, text=True, check=True
    ).stdout
    assert out.strip() == "[]"


ERRORS = [
    (("run",), "No model is configured", 2),
    (("run", "--config", "nowhere.yaml"), "nowhere.yaml does not exist", 2),
    (("run", "--only", "everything"), "Invalid value", 2),
    (("train", "--out", "b"), "No data to train on", 2),
    (("train", "missing.npz", "--out", "b"), "missing.npz", 2),
    (("train", "short.npz", "--out", "b"), "at least", 2),
    (("train", "--last", "a while", "--out", "b"), "no length of time", 2),
    (("evaluate", "nothing-here"), "There is no", 2),
    (("replay", "short.npz"), "does not answer", 1),
    (("agent", "--seconds", "1"), "does not answer", 1),
    (("setup",), "does not answer", 1),
    (("alerts", "list"), "does not answer", 1),
    (("alerts", "list", "--since", "long ago"), "is no time", 2),
    (("test-notify",), "No receiver is configured", 2),
    (("no-such-command",), "No such command", 2),
]


@pytest.mark.parametrize(("words", "message", "status"), ERRORS, ids=[" ".join(words) for words, _, _ in ERRORS])
def test_an_error_is_one_sentence_with_what_to_do_next(tmp_path: Path, words: tuple[str, ...], message: str, status: int) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "short.npz", train=rng.normal(size=(20, 3)), test=rng.normal(size=(20, 3)), label=np.zeros(20))
    done = tidewatch(*words, cwd=tmp_path, **NOWHERE)
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert done.returncode == status
    lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("{")]
    if status == 1 or "Error:" in done.stderr:
        assert len(lines) >= 2, "an error also says what to do next"


def test_check_names_everything_that_is_wrong_in_one_table(tmp_path: Path) -> None:
    done = tidewatch("check", "--json", cwd=tmp_path, TIDEWATCH_MODELS='[{"bundle": "missing"}]', **NOWHERE)
    assert done.returncode == 1
    for what in ("bundle missing", "Kafka at 127.0.0.1:9", "Elasticsearch at http://127.0.0.1:9"):
        assert what in done.stdout
    results = json.loads(done.stdout)
    assert len(results) == 3
    assert not any(result["good"] for result in results)


def test_columns_that_are_left_out_are_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    states = (rng.random((600, 11)) < 0.2).astype(np.float32)
    train = np.concatenate([rng.normal(size=(600, 1)).astype(np.float32), states], axis=1)
    np.savez(tmp_path / "states.npz", train=train, test=train[:200], label=np.zeros(200, np.uint8))
    trained = tidewatch("train", "states.npz", "--out", "b", "--detector", "mahalanobis", cwd=tmp_path, COLUMNS="300")
    assert trained.returncode == 0, trained.stderr
    assert "11 metrics that took at most two values in training" in trained.stdout
    (tmp_path / "tidewatch.yaml").write_text("models: [{match: '*', bundle: b}]")
    checked = tidewatch("check", "--config", "tidewatch.yaml", cwd=tmp_path, COLUMNS="500", **NOWHERE)
    assert "left out: 11 metrics" in checked.stdout
    assert re.search(r"claims at most one window in \d+, about once in .+ for one entity", checked.stdout)


def test_long_work_shows_its_progress_without_a_terminal(tmp_path: Path) -> None:
    train = np.random.default_rng(0).normal(size=(600, 3)).astype(np.float32)
    np.savez(tmp_path / "few.npz", train=train, test=train[:200], label=np.zeros(200, np.uint8))
    trained = tidewatch("train", "few.npz", "--out", "b", "--detector", "mahalanobis", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    lines = trained.stderr.splitlines()
    assert any(line.startswith("mahalanobis: 2/2") for line in lines)
    assert any(line.startswith("calibrate: ") for line in lines)
    assert "\x1b" not in trained.stderr


def test_a_split_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "few.npz", train=np.zeros((20, 3)), test=np.zeros((20, 3)), label=np.zeros(20))
    replayed = tidewatch("replay", "few.npz", "--split", "tset", cwd=tmp_path, **NOWHERE)
    assert replayed.returncode == 2
    assert "'tset' is not one of" in " ".join(replayed.stderr.split())
