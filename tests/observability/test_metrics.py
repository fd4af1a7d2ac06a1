"""What is counted of a batch's windows."""

from __future__ import annotations

import ast
import collections
from pathlib import Path

import service
from service.domain import MemberScore
from service.observability.metrics import Metrics
from service.verdicts import Verdicts
from tests.alerts.makers import verdict

LATE = MemberScore("deep", None, None, "timeout", "no answer within 30 s")


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


def test_every_window_is_counted_once_and_every_missing_score_too() -> None:
    made = [
        verdict(0, 0.05, members=(LATE,)),
        verdict(1, 0.05, members=(LATE,)),
        verdict(2, 0.95, members=(LATE,)),  # an anomaly
        verdict(3, 0.0, not_scored="only 20% of its values were observed", members=()),
        verdict(4, 0.0, not_scored="no detector could score it", members=(LATE,)),
    ]
    ready = Verdicts.of(made)
    metrics = Metrics()
    metrics.count_windows(
        "hosts", Verdicts(ready.entities, ready.ends_ms, ready.partitions, ready.within_level, made.__getitem__, (LATE,))
    )
    assert value(metrics, "tidewatch_windows_scored_total", bundle="hosts") == 3
    assert value(metrics, "tidewatch_anomalous_windows_total", severity="critical") == 1
    assert value(metrics, "tidewatch_windows_not_scored_total", reason="low-coverage") == 1
    assert value(metrics, "tidewatch_windows_not_scored_total", reason="no-detector") == 1
    assert value(metrics, "tidewatch_detector_failures_total", detector="deep", state="timeout") == 4


def _moves(path: Path, names: set[str]) -> list[str]:
    """The metrics that a file counts with: ``metrics.name`` or ``self._metrics.name``; in metrics.py itself ``self.name``."""
    moved = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and node.attr in names:
            holder = node.value.id if isinstance(node.value, ast.Name) else getattr(node.value, "attr", "")
            if holder in ("metrics", "_metrics") or (holder == "self" and path.name == "metrics.py"):
                moved.append(node.attr)
    return moved


def test_every_metric_is_moved_by_exactly_one_place() -> None:
    metrics = Metrics()
    names = {name for name, value in vars(metrics).items() if hasattr(value, "describe") and name != "registry"}
    assert len(names) > 10
    root = Path(service.__file__).parent
    moves = collections.Counter(name for path in root.rglob("*.py") for name in _moves(path, names))
    assert {name: moves[name] for name in names if moves[name] != 1} == {}
