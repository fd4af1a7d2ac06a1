"""The sample alert of ``tidewatch test-notify``; its text says that it is a test."""

from __future__ import annotations

import math

import msgspec

from service.domain import Alert, MemberScore, MetricShare, Severity, Status, alert_id


def sample_alert(now_ms: int) -> tuple[Alert, Alert]:
    """A firing alert and its resolved state, of the entity ``tidewatch-test``, as if it had begun a minute before ``now_ms``."""
    begun = now_ms - 60_000
    cpu = tuple(41 + 2.5 * math.sin(i / 3) if i < 44 else 41 + 3.4 * (i - 43) for i in range(60))
    memory = tuple(72 + 0.4 * math.cos(i / 5) if i < 44 else 72 + 0.9 * (i - 43) for i in range(60))
    firing = Alert(
        alert_id=alert_id("tidewatch-test", "test-message", begun),
        seq=2,
        action="fired",
        reason="a test message; nothing is wrong",
        entity="tidewatch-test",
        status=Status.FIRING,
        severity=Severity.CRITICAL,
        peak_severity=Severity.CRITICAL,
        started_at=begun,
        updated_at=now_ms - 30_000,
        fired_at=now_ms - 30_000,
        score=0.93,
        peak_score=0.93,
        p=2.6e-6,
        peak_p=2.6e-6,
        windows=3,
        metrics=(
            MetricShare("cpu_percent", 0.71, cpu[-1], 41.0, 2.1, cpu),
            MetricShare("memory_percent", 0.29, memory[-1], 72.0, 0.5, memory),
        ),
        members=(MemberScore("deep", 9.4, 4e-6), MemberScore("statistical", 0.8, 3e-5)),
        bundle="test-message",
        bundle_version="0",
        labels={"purpose": "test"},
        every_days=21.0,
        interval_ms=1000,
        metrics_at=now_ms - 30_000,
        model_trained_at=now_ms - 3 * 86_400_000,
        calibrated_days=5.0,
    )
    resolved = msgspec.structs.replace(
        firing, seq=3, action="resolved", reason="the test is over", status=Status.RESOLVED, updated_at=now_ms, ended_at=now_ms
    )
    return firing, resolved
