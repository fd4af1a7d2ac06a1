"""A run that could not reach the servers must not look like a full one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
NEEDS_KAFKA = "tests/local/test_stack.py::test_shared_kafka_takes_and_gives_a_record"


def _run(tmp_path: Path, ci: str) -> subprocess.CompletedProcess[str]:
    """One test that needs Kafka, where nothing is cached and the network leads nowhere."""
    gone = {name: value for name, value in os.environ.items() if not name.startswith(("KAFKA_", "PYTEST_", "_TEST_STACK"))}
    nowhere = dict.fromkeys(("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"), "http://127.0.0.1:9")
    environment = {**gone, **nowhere, "XDG_CACHE_HOME": str(tmp_path), "CI": ci, "NO_PROXY": "", "no_proxy": ""}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", NEEDS_KAFKA],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=environment,
    )


@pytest.mark.slow
def test_without_servers_ci_fails(tmp_path: Path) -> None:
    run = _run(tmp_path, ci="true")
    assert run.returncode == 1
    assert "could not be downloaded" in run.stdout
    assert "CI must not pass without it" in run.stdout


@pytest.mark.slow
def test_without_servers_elsewhere_the_summary_is_loud(tmp_path: Path) -> None:
    run = _run(tmp_path, ci="")
    assert run.returncode == 0, run.stdout
    assert "NOT TESTED" in run.stdout
    assert "1 test skipped: no Kafka:" in run.stdout
