"""The state of a message to a receiver, as a document of the alert history. Pure."""

from __future__ import annotations

from typing import Any

from service.alerts.history.alert_documents import ECS_VERSION, storable
from service.alerts.times import iso
from service.alerts.topics.deliveries import Delivery

SETTLED = 1 << 30  # version of the document of a settled message: above any number of tries
_OUTCOMES = {"owed": "unknown", "sent": "success", "refused": "failure", "gave_up": "failure"}  # ECS event.outcome
_KEYWORD: dict[str, Any] = {"type": "keyword", "ignore_above": 1024}
_DATE: dict[str, Any] = {"type": "date"}


def version(delivery: Delivery) -> int:
    """Grows with every try and is highest once the message is settled, so that an older state never replaces a newer one."""
    return SETTLED if delivery.state != "owed" else 1 + min(delivery.attempts, SETTLED - 2)


def delivery_document(delivery: Delivery) -> dict[str, Any]:
    """The whole document. ``@timestamp``: when the message became due; ``event.duration``: from then until it was settled, ns;
    ``tidewatch.alert_id``: every alert it is about."""
    event: dict[str, Any] = {
        "kind": "event",
        "module": "tidewatch",
        "dataset": "tidewatch.notifications",
        "id": delivery.key,
        "action": f"notification-{delivery.state.replace('_', '-')}",
        "outcome": _OUTCOMES[delivery.state],
        "reason": delivery.reason,
        "start": iso(delivery.owed_at),
    }
    if delivery.state != "owed":
        event["end"] = iso(delivery.at)
        event["duration"] = max(0, delivery.at - delivery.owed_at) * 1_000_000
    return {
        "@timestamp": iso(delivery.owed_at),
        "ecs": {"version": ECS_VERSION},
        "message": sentence(delivery),
        "event": event,
        "tidewatch": {
            "receiver": delivery.receiver,
            "state": delivery.state,
            "alert_id": delivery.alert_ids,
            "alerts": len(delivery.alert_ids),
            "attempts": delivery.attempts,
            "problem": delivery.problem,
            "updated_at": iso(delivery.at),
            "group": storable(delivery.labels),
        },
    }


def sentence(delivery: Delivery) -> str:
    """The state as a sentence."""
    count = len(delivery.alert_ids)
    what = f"{count:,} alert{'' if count == 1 else 's'} ({delivery.reason})"
    tries = f"{delivery.attempts} {'try' if delivery.attempts == 1 else 'tries'}"
    match delivery.state:
        case "sent":
            return f"{delivery.receiver} was notified of {what} after {tries}."
        case "refused":
            return f"{delivery.receiver} refused the message about {what}."
        case "gave_up":
            return f"{delivery.receiver} was not notified of {what}: given up after {tries}."
        case _:
            return f"{delivery.receiver} is still to be notified of {what}" + (f"; {tries} failed." if delivery.attempts else ".")


DELIVERY_MAPPINGS: dict[str, Any] = {
    "dynamic": False,
    "properties": {
        "@timestamp": _DATE,
        "message": {"type": "text"},
        "ecs": {"properties": {"version": _KEYWORD}},
        "event": {
            "properties": {
                **dict.fromkeys(("kind", "module", "dataset", "id", "action", "outcome", "reason"), _KEYWORD),
                "start": _DATE,
                "end": _DATE,
                "duration": {"type": "long"},
            }
        },
        "tidewatch": {
            "properties": {
                **dict.fromkeys(("receiver", "state", "alert_id"), _KEYWORD),
                "alerts": {"type": "long"},
                "attempts": {"type": "long"},
                "problem": {"type": "text"},
                "updated_at": _DATE,
                "group": {"type": "flattened", "ignore_above": 1024},
            }
        },
    },
}
