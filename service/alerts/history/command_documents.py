"""Operators' commands as documents of the audit log: who acknowledged, silenced or marked what, and when. Pure."""

from __future__ import annotations

from typing import Any

from service.alerts.control.commands import Acknowledge, AddSilence, Command, ExpireSilence, Mark
from service.alerts.history.alert_documents import ECS_VERSION
from service.alerts.times import iso

DATASET = "tidewatch.words"  # event.dataset: the stored value, whatever the index is called
_KEYWORD: dict[str, Any] = {"type": "keyword", "ignore_above": 1024}
_DATE: dict[str, Any] = {"type": "date"}

COMMAND_MAPPINGS: dict[str, Any] = {
    "dynamic": False,
    "properties": {
        "@timestamp": _DATE,
        "message": {"type": "text"},
        "ecs": {"properties": {"version": _KEYWORD}},
        "event": {"properties": dict.fromkeys(("kind", "module", "dataset", "id", "action"), _KEYWORD)},
        "user": {"properties": {"name": _KEYWORD}},
        "host": {"properties": {"name": _KEYWORD}},
        "tidewatch": {
            "properties": {
                **dict.fromkeys(("alert_id", "entity", "metric_names", "silence_id"), _KEYWORD),
                "note": {"type": "text"},
                "suppress": {"type": "boolean"},
                "match": {"type": "flattened", "ignore_above": 1024},
                "starts_at": _DATE,
                "ends_at": _DATE,
            }
        },
    },
}


def command_document_id(command: Command) -> str:
    """Id of the document of a command: the same however often it is written."""
    return f"{type(command).__struct_config__.tag}-{command.id}"


def command_document(command: Command) -> dict[str, Any]:
    """One command as an event. ``event.action``: ``acknowledged``, ``silenced``, ``unsilenced``, ``marked-false``,
    ``marked-true`` or ``mark-withdrawn``."""
    action, sentence, ours = _described(command)
    whole: dict[str, Any] = {
        "@timestamp": iso(command.at),
        "ecs": {"version": ECS_VERSION},
        "message": sentence,
        "event": {"kind": "event", "module": "tidewatch", "dataset": DATASET, "id": command.id, "action": action},
        "user": {"name": command.author},
        "tidewatch": ours,
    }
    if isinstance(command, Acknowledge | Mark):
        whole["host"] = {"name": command.entity}
    return whole


def _described(command: Command) -> tuple[str, str, dict[str, Any]]:
    who = command.author
    ours: dict[str, Any]
    match command:
        case Acknowledge():
            ours = {"alert_id": command.alert_id, "entity": command.entity, "note": command.note}
            return "acknowledged", f"{who} acknowledged alert {command.alert_id[:8]} of {command.entity}.", ours
        case AddSilence():
            what = " ".join(f"{name}={glob}" for name, glob in command.match.items())
            until = iso(command.ends_at)
            ours = {"silence_id": command.id, "match": command.match, "note": command.comment}
            ours |= {"starts_at": iso(command.starts_at), "ends_at": until}
            return "silenced", f"{who} silenced {what} until {until}.", ours
        case ExpireSilence():
            return "unsilenced", f"{who} ended silence {command.silence_id}.", {"silence_id": command.silence_id}
        case Mark():
            ours = {"alert_id": command.alert_id, "entity": command.entity, "metric_names": list(command.metrics)}
            ours |= {"note": command.note, "suppress": command.suppress}
            alert = f"alert {command.alert_id[:8]} of {command.entity}"
            if command.verdict == "none":
                return "mark-withdrawn", f"{who} withdrew the mark of {alert}.", ours
            return f"marked-{command.verdict}", f"{who} marked {alert} {command.verdict}.", ours
