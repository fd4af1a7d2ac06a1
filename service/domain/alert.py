"""Alerts and their transitions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Literal

import msgspec

from service.domain.severity import Severity
from service.domain.verdict import MemberScore, MetricShare


class Status(StrEnum):
    """The state of an alert."""

    PENDING = "pending"
    FIRING = "firing"
    RESOLVED = "resolved"


Action = Literal["opened", "fired", "raised", "lowered", "widened", "updated", "acknowledged", "resolved"]


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One transition of one alert, with the alert's whole state after it.

    ``alert_id`` is ``alert_id(entity, bundle, first anomalous row)``; ``seq`` counts transitions from 1, so the newest
    state of an alert is the one with the highest ``seq``. ``action`` and ``reason`` say what changed and why. An alert of the
    kind ``data_health`` is about the data of one entity or of the metrics topic (then ``entity`` is the topic) and has no score.

    ``every_days``: how often, in days, normal operation of this entity brings an alert as strong as its peak, and no rarer than
    the data support (0: not known). ``also``: metrics that became unusual while the alert was open and that it did not name
    before; the action is then ``widened``. ``interval_ms``: between two rows of ``metrics[].recent``. ``model_trained_at``: when
    the bundle was trained, ms (0: not known); ``calibrated_days``: the days of normal operation that its claims rest on.
    ``resolve_after_ms``: quiet time after which the alert resolves (0: not known).
    """

    alert_id: str
    seq: int
    action: Action
    reason: str
    entity: str
    status: Status
    severity: Severity
    peak_severity: Severity
    started_at: int
    updated_at: int
    fired_at: int | None = None
    ended_at: int | None = None
    acknowledged_by: str | None = None
    score: float
    peak_score: float
    p: float
    peak_p: float
    windows: int = 1
    metrics: tuple[MetricShare, ...] = ()
    members: tuple[MemberScore, ...] = ()
    bundle: str = ""
    bundle_version: str = ""
    config_hash: str = ""
    labels: Mapping[str, str] = {}
    topic: str = ""
    partition: int = -1
    first_offset: int = -1
    last_offset: int = -1
    kind: Literal["anomaly", "data_health"] = "anomaly"
    every_days: float = 0.0
    also: tuple[MetricShare, ...] = ()
    interval_ms: int = 0
    model_trained_at: int = 0
    calibrated_days: float = 0.0
    resolve_after_ms: int = 0
    metrics_at: int = 0


def alert_id(entity: str, bundle: str, first_row: int) -> str:
    """Deterministic id of an alert: the same anomaly found again, by any process, has the same id (32 hex digits)."""
    return hashlib.sha256(f"{bundle}\x00{first_row}\x00{entity}".encode()).hexdigest()[:32]
