"""An alert as an Elasticsearch document: ECS names where ECS has one, the rest under ``tidewatch``. Pure.

Field meanings: https://www.elastic.co/docs/reference/ecs/ecs-field-reference (event, rule, host, service, labels, tags).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from service.alerts.messages.message import sentence
from service.alerts.times import iso
from service.domain import Alert, Severity, Status

ECS_VERSION = "9.1.0"
# ECS leaves the meaning of event.severity to the producer; these are Tidewatch's.
EVENT_SEVERITY = {Severity.INFO: 1, Severity.WARNING: 2, Severity.CRITICAL: 3}


def document(alert: Alert, muted_by: str | None = None) -> dict[str, Any]:
    """The whole document of an alert after this transition. ``@timestamp`` is the alert's start, ``event.duration`` in ns.

    ``muted_by``: why it was muted (a silence, maintenance, inhibition or a false-alarm mark), or ``None``.
    """
    event: dict[str, Any] = {
        "kind": "alert",
        "category": ["host"],
        "type": [{Status.PENDING: "start", Status.FIRING: "info", Status.RESOLVED: "end"}[alert.status]],
        "module": "tidewatch",
        "dataset": "tidewatch.alerts",
        "id": alert.alert_id,
        "sequence": alert.seq,
        "action": alert.action,
        "reason": alert.reason,
        "severity": EVENT_SEVERITY[alert.severity],
        "risk_score": alert.peak_score * 100,
        "risk_score_norm": alert.peak_score * 100,
        "start": iso(alert.started_at),
    }
    if alert.ended_at is not None:
        event["end"] = iso(alert.ended_at)
        event["duration"] = (alert.ended_at - alert.started_at) * 1_000_000
    ours: dict[str, Any] = {
        "alert_id": alert.alert_id,
        "entity": alert.entity,
        "kind": alert.kind,
        "status": alert.status,
        "severity": alert.severity,
        "peak_severity": alert.peak_severity,
        "updated_at": iso(alert.updated_at),
        "acknowledged_by": alert.acknowledged_by,
        "muted_by": muted_by,
        "score": alert.score,
        "peak_score": alert.peak_score,
        "p": alert.p,
        "peak_p": alert.peak_p,
        "windows": alert.windows,
        "top_metric": alert.metrics[0].name if alert.metrics else None,
        "metric_names": [metric.name for metric in alert.metrics],
        "metrics": msgspec.to_builtins(alert.metrics),
        "detectors": msgspec.to_builtins(alert.members),
        "detectors_voted": [member.name for member in alert.members if member.state == "ok"],
        "detectors_missing": [member.name for member in alert.members if member.state != "ok"],
        "bundle": {"name": alert.bundle, "version": alert.bundle_version},
        "config_hash": alert.config_hash,
        "source": {
            "topic": alert.topic,
            "partition": alert.partition,
            "first_offset": alert.first_offset,
            "last_offset": alert.last_offset,
        },
    }
    if alert.fired_at is not None:
        ours["fired_at"] = iso(alert.fired_at)
    return {
        "@timestamp": iso(alert.started_at),
        "ecs": {"version": ECS_VERSION},
        "message": sentence(alert),
        "event": event,
        "rule": {"name": alert.bundle or "unnamed model", "version": alert.bundle_version, "ruleset": "tidewatch"},
        "host": {"name": alert.entity},
        "service": {"name": alert.entity},
        "labels": storable(alert.labels),
        "tags": ["tidewatch", str(alert.severity)],
        "tidewatch": ours,
    }


def storable(labels: Mapping[str, str]) -> dict[str, str]:
    """Labels that a ``flattened`` field takes: it refuses the whole document for U+0000 in a name."""
    return {name.replace("\0", "\ufffd"): value.replace("\0", "\ufffd") for name, value in labels.items()}


def event_document(whole: Mapping[str, Any], alert: Alert) -> dict[str, Any]:
    """One transition as an event of its own: the fields of its ``document``, dated when it happened and in its own data set."""
    event = {**whole["event"], "dataset": "tidewatch.alert-events", "kind": "event"}
    return {**whole, "@timestamp": iso(alert.updated_at), "event": event}


def event_id(alert: Alert) -> str:
    """Id of the event document of a transition."""
    return f"{alert.alert_id}-{alert.seq}"


_KEYWORD: dict[str, Any] = {"type": "keyword", "ignore_above": 1024}
_DATE: dict[str, Any] = {"type": "date"}
_LONG: dict[str, Any] = {"type": "long"}
_DOUBLE: dict[str, Any] = {"type": "double"}
_KEPT: dict[str, Any] = {"type": "object", "enabled": False}  # shown with the document, never searched

MAPPINGS: dict[str, Any] = {
    "dynamic": False,  # a label or metric name from outside never adds a field to the index
    "properties": {
        "@timestamp": _DATE,
        "message": {"type": "text"},
        "ecs": {"properties": {"version": _KEYWORD}},
        "event": {
            "properties": {
                **dict.fromkeys(("kind", "category", "type", "module", "dataset", "id", "action", "reason"), _KEYWORD),
                "sequence": _LONG,
                "severity": _LONG,
                "risk_score": {"type": "float"},
                "risk_score_norm": {"type": "float"},
                "start": _DATE,
                "end": _DATE,
                "duration": _LONG,
            }
        },
        "rule": {"properties": dict.fromkeys(("name", "version", "ruleset"), _KEYWORD)},
        "host": {"properties": {"name": _KEYWORD}},
        "service": {"properties": {"name": _KEYWORD}},
        "labels": {"type": "flattened", "ignore_above": 1024},
        "tags": _KEYWORD,
        "tidewatch": {
            "properties": {
                **dict.fromkeys(("alert_id", "entity", "kind", "status", "severity", "peak_severity"), _KEYWORD),
                **dict.fromkeys(("acknowledged_by", "muted_by", "top_metric", "metric_names", "config_hash"), _KEYWORD),
                **dict.fromkeys(("detectors_voted", "detectors_missing"), _KEYWORD),
                **dict.fromkeys(("score", "peak_score", "p", "peak_p"), _DOUBLE),
                "windows": _LONG,
                "updated_at": _DATE,
                "fired_at": _DATE,
                "metrics": _KEPT,
                "detectors": _KEPT,
                "bundle": {"properties": {"name": _KEYWORD, "version": _KEYWORD}},
                "source": {"properties": {"topic": _KEYWORD, "partition": _LONG, "first_offset": _LONG, "last_offset": _LONG}},
            }
        },
    },
}
