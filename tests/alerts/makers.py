"""Small makers of values for the alert tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from service.alerts.messages.sample import sample_alert
from service.clock import SystemClock
from service.domain import Alert, MemberScore, MetricShare, Severity, SeverityBounds, Status, Verdict, alert_id
from service.observability.health import Health
from service.observability.tasks import BackgroundTasks

INTERVAL_MS = 1000
STRIDE = 10
BORN = 1_763_769_600  # seconds; row 0 of these tests


def verdict(slot: int, score: float, *, fresh: bool | None = None, level: float = 2.0, **changes: Any) -> Verdict:
    """The window that ends ``slot`` strides after the start; anomalous when ``score`` (surprise / 6) lies above ``level``."""
    surprise = score * 6
    anomalous = surprise > level
    end_row = BORN + slot * STRIDE
    facts: dict[str, Any] = {
        "entity": "db-7",
        "end_row": end_row,
        "timestamp": end_row * INTERVAL_MS + 5,
        "stride": STRIDE,
        "window": 10 * STRIDE,
        "surprise": surprise,
        "level": level,
        "warning": max(4.2, level + 0.5),
        "critical": max(5.4, level + 1.0),
        "p": 10**-surprise,
        "score": score,
        "fresh_p": 1e-4 if (anomalous if fresh is None else fresh) else 0.5,
        "is_anomaly": anomalous,
        "severity": SeverityBounds().of(score),
        "members": (MemberScore("deep", 3.2, 1e-4), MemberScore("statistical", None, None, "timeout", "took over 30 s")),
        "metrics": (MetricShare("cpu", 0.8, 97.0, 40.0, 2.0, (40.0, 41.0, 97.0)),),
        "bundle": "hosts",
        "bundle_version": "3",
        "interval_ms": INTERVAL_MS,
        "labels": {"rack": "7"},
        "topic": "metrics",
        "partition": 1,
        "first_offset": slot * 10,
        "last_offset": slot * 10 + 99,
    }
    return Verdict(**(facts | changes))


def not_scored(slot: int) -> Verdict:
    """A window without a score."""
    return verdict(slot, 0.0, not_scored="coverage 0.20 is below 0.50")


def drawn(picture: str, **changes: Any) -> list[Verdict]:
    """Verdicts from a drawing, one character a window: ``.`` calm, ``i`` ``w`` ``c`` anomalous on its newest rows at that
    severity, ``I`` ``W`` ``C`` anomalous only through older rows, ``?`` not scored, blank no window at all."""
    scores = {".": 0.05, "i": 0.5, "w": 0.8, "c": 0.95}
    made = []
    for slot, mark in enumerate(picture):
        if mark == "?":
            made.append(not_scored(slot))
        elif mark != " ":
            made.append(verdict(slot, scores[mark.lower()], fresh=mark.islower() and mark != ".", **changes))
    return made


def alert(
    entity: str = "db-7",
    *,
    status: Status = Status.FIRING,
    severity: Severity = Severity.CRITICAL,
    seq: int = 2,
    started_at: int = BORN * 1000,
    labels: dict[str, str] | None = None,
    **changes: Any,
) -> Alert:
    """A transition as the episodes would emit it."""
    firing, _ = sample_alert(started_at + 60_000)
    facts: dict[str, Any] = {
        "alert_id": alert_id(entity, "hosts", started_at // 1000),
        "entity": entity,
        "status": status,
        "severity": severity,
        "peak_severity": severity,
        "seq": seq,
        "bundle": "hosts",
        "labels": labels or {},
        "reason": "2 of the last 3 windows unusual on their newest rows",
        "action": {Status.PENDING: "opened", Status.FIRING: "fired", Status.RESOLVED: "resolved"}[status],
        "started_at": started_at,
        "updated_at": started_at + seq * 10_000,
        "fired_at": None if status is Status.PENDING else started_at + 10_000,
        "ended_at": started_at + 90_000 if status is Status.RESOLVED else None,
        # as alerts were recorded before they carried these; a test that is about them gives them
        "every_days": 0.0,
        "interval_ms": 0,
        "metrics_at": 0,
        "model_trained_at": 0,
        "calibrated_days": 0.0,
    }
    return msgspec.structs.replace(firing, **(facts | changes))


def life(entity: str = "db-7", severity: Severity = Severity.CRITICAL, **changes: Any) -> list[Alert]:
    """Opened, fired, resolved."""
    states: Sequence[Status] = (Status.PENDING, Status.FIRING, Status.RESOLVED)
    return [alert(entity, status=status, severity=severity, seq=seq, **changes) for seq, status in enumerate(states, 1)]


def background_tasks() -> BackgroundTasks:
    """Tasks of a part whose health nobody looks at."""
    return BackgroundTasks("test", Health(SystemClock()), SystemClock())
