"""The rooms stay apart: what must not be imported where, seen from a fresh interpreter."""

from __future__ import annotations

import ast
import collections
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SERVICE = ROOT / "service"

# Where each client library may be imported (docs/architecture.md, "Rooms").
ALLOWED = {
    "aiokafka": {
        "service/kafka_options.py",
        "service/kafka_records.py",
        "service/sources/kafka.py",
        "service/sources/rebalances.py",
        "service/sources/publisher.py",
        "service/sources/topic_range.py",
        "service/state/health_topic.py",
        "service/state/dead_letter_writer.py",
        "service/state/producer.py",
        "service/state/takeover.py",
        "service/state/transactions.py",
        "service/state/topics.py",
        "service/state/topic_monitor.py",
        "service/state/writer.py",
        "service/alerts/topics/reader.py",
        "service/alerts/control/topic.py",
        "service/local/",
    },
    "elasticsearch": {"service/alerts/history/elasticsearch_client.py"},
    "httpx": {"service/alerts/receivers/http.py", "service/local/", "service/demo/"},
    "aiosmtplib": {"service/alerts/receivers/email.py"},
    "aiosmtpd": {"service/demo/"},
    "pickle": set(),
    "joblib": set(),
}


@pytest.mark.parametrize("library", sorted(ALLOWED))
def test_client_libraries_stay_in_their_files(library: str) -> None:
    pattern = re.compile(rf"^\s*(?:import|from) {library}\b", re.MULTILINE)
    users = {str(path.relative_to(ROOT)) for path in SERVICE.rglob("*.py") if pattern.search(path.read_text())}
    strays = {
        user
        for user in users
        if not any(user == place or (place.endswith("/") and user.startswith(place)) for place in ALLOWED[library])
    }
    assert not strays


@pytest.mark.parametrize("module", ["service.settings", "service.app", "service.cli"])
def test_torch_is_not_loaded_before_a_deep_detector_is_used(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_no_path_of_this_machine_and_no_package_index_is_written_down() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    home = str(Path.home()) + "/"
    index = re.compile(r"https?://[^\s\"']*(?:/simple\b|/maven2\b|registry|pythonhosted)")
    wrong = []
    for name in tracked:
        path = ROOT / name
        if path.suffix in {".png", ".npz"} or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        if f"{ROOT.parent}/" in text or home in text or index.search(text):
            wrong.append(name)
    assert not wrong


def test_no_public_class_is_defined_twice() -> None:
    """One name, one meaning: whoever reads a class's name knows which one is meant."""
    defined: dict[str, list[str]] = {}
    for path in sorted(SERVICE.rglob("*.py")):
        for name in re.findall(r"^class ([A-Za-z]\w*)", path.read_text(), re.MULTILINE):
            defined.setdefault(name, []).append(str(path.relative_to(ROOT)))
    assert {name: places for name, places in defined.items() if len(places) > 1} == {}


# Where a task may be made, how often, and why it cannot end unseen. All others run in ``observability.tasks.BackgroundTasks``.
TASKS = {
    "service/observability/tasks.py": (3, "watches every background task"),
    "service/runtime.py": (
        4,
        "run_parts waits for all parts and raises what one of them raised; the waits for a stop are cancelled",
    ),
    "service/supervisor.py": (1, "waits for the first of two, cancels and awaits both"),
    "service/kafka_options.py": (1, "disconnect waits for the client's stop, bounded, and retrieves what it raised"),
    "service/sources/agent.py": (2, "the sampling loop ends with its sender, and raises what that raised"),
    "service/alerts/topics/reader.py": (1, "alongside polls until the work is done, and returns or raises its result"),
    "service/stream/scoring.py": (1, "run awaits each batch; the next batch raises what ended the one before"),
    "service/detectors/window_scorer.py": (1, "awaited with a timeout; a late score is dropped, and its error retrieved"),
    "service/demo/feeds.py": (1, "a task group: what one feed raises ends the demo"),
}


def test_no_task_is_fire_and_forget() -> None:
    made: collections.Counter[str] = collections.Counter()
    for path in SERVICE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""
            if name in ("create_task", "ensure_future", "run_coroutine_threadsafe"):
                made[str(path.relative_to(ROOT))] += 1
    assert made == {path: count for path, (count, _) in TASKS.items()}, "use BackgroundTasks, or say here why it cannot end unseen"
