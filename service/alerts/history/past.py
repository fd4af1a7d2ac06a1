"""Stored documents as what a message says of earlier alerts. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from service.alerts.history.base import PastAlert, Remark
from service.domain import Alert, Severity

# Fields of an alert's document that are large and say nothing here.
UNUSED = ("message", "tidewatch.metrics", "tidewatch.detectors", "tidewatch.source")
_VERDICTS: Mapping[str, Any] = {"marked-true": "true", "marked-false": "false", "mark-withdrawn": "none"}


def past_alert(document: Mapping[str, Any], remarks: Sequence[Remark]) -> PastAlert:
    """An alert's document (``alert_documents.document``) with what was said of it."""
    event, ours = document["event"], document["tidewatch"]
    return PastAlert(
        alert_id=ours["alert_id"],
        entity=ours["entity"],
        started_at=_ms(event["start"]),
        ended_at=_ms(event["end"]) if "end" in event else None,
        reason=event["reason"],
        severity=Severity(ours["peak_severity"]),
        metrics=tuple(ours["metric_names"]) or checked(document.get("labels") or {}),
        remarks=tuple(remarks),
    )


def remembered(alert: Alert) -> PastAlert:
    """The same of an alert itself."""
    return PastAlert(
        alert_id=alert.alert_id,
        entity=alert.entity,
        started_at=alert.started_at,
        ended_at=alert.ended_at,
        reason=alert.reason,
        severity=alert.peak_severity,
        metrics=tuple(metric.name for metric in alert.metrics) or checked(alert.labels),
    )


def checked(labels: Mapping[str, str]) -> tuple[str, ...]:
    """What an alert about the data checked, in place of metrics."""
    return (f"check {labels['check']}",) if "check" in labels else ()


def is_about(command: Mapping[str, Any], document: Mapping[str, Any]) -> bool:
    """Whether a document of the audit log is about the alert of this document."""
    return bool(command["tidewatch"].get("alert_id") == document["tidewatch"]["alert_id"])


def remark(command: Mapping[str, Any]) -> Remark:
    """A document of the audit log (``command_documents.command_document``)."""
    verdict = _VERDICTS.get(command["event"]["action"])
    return Remark(_ms(command["@timestamp"]), command["user"]["name"], command["tidewatch"].get("note") or "", verdict)


def _ms(moment: str) -> int:
    return round(datetime.fromisoformat(moment).timestamp() * 1000)
