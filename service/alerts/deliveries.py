"""How each message to a receiver fared: a record of ``tidewatch.notifications``, and a document beside the alert history. Pure.

The notifier writes the record in one transaction with what it remembers; the store part makes it a document. Neither holds a
receiver's address: a receiver is known by its name.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from service.alerts.documents import ECS_VERSION, iso
from service.alerts.stages import Notification
from service.errors import InvalidMessage

Ending = Literal["sent", "refused", "gave_up"]
State = Literal["owed", "sent", "refused", "gave_up"]

SETTLED = 1 << 30  # version of a document that says how a message ended: above any number of tries
_OUTCOMES = {"owed": "unknown", "sent": "success", "refused": "failure", "gave_up": "failure"}  # ECS event.outcome
_KEYWORD: dict[str, Any] = {"type": "keyword", "ignore_above": 1024}
_DATE: dict[str, Any] = {"type": "date"}


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One message to one receiver as it stands at ``at`` (wall-clock ms). ``attempts``: tries so far, those that failed included;
    ``problem``: what the receiver last said against it. ``key``: its idempotency key."""

    key: str
    receiver: str
    state: State
    reason: str
    labels: dict[str, str]
    alert_ids: list[str]
    owed_at: int
    at: int
    attempts: int = 0
    problem: str | None = None


_decoder: msgspec.json.Decoder[Delivery] = msgspec.json.Decoder(Delivery)


def delivery_of(message: Notification, state: State, at: int) -> Delivery:
    """The message as it stands."""
    return Delivery(
        key=message.key,
        receiver=message.receiver,
        state=state,
        reason=message.reason,
        labels=message.labels,
        alert_ids=[entry.alert.alert_id for entry in message.entries],
        owed_at=message.owed_at or at,
        at=at,
        attempts=message.attempts,
        problem=message.problem,
    )


def encode(delivery: Delivery) -> bytes:
    """The record value; the record key is the message's."""
    return msgspec.json.encode(delivery)


def decode(value: bytes | None) -> Delivery:
    """The inverse of ``encode``. Raises ``InvalidMessage`` for anything else."""
    if value is None:
        raise InvalidMessage("empty", "A record of the notifications topic has no value.")
    try:
        return _decoder.decode(value)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise InvalidMessage("not-a-delivery", f"A record of the notifications topic tells of no message: {error}.") from error


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
            "group": delivery.labels,
        },
    }


def sentence(delivery: Delivery) -> str:
    """The state in words."""
    count = len(delivery.alert_ids)
    what = f"{count:,} alert{'' if count == 1 else 's'} ({delivery.reason})"
    tries = f"{delivery.attempts} {'try' if delivery.attempts == 1 else 'tries'}"
    match delivery.state:
        case "sent":
            return f"{delivery.receiver} was told of {what} after {tries}."
        case "refused":
            return f"{delivery.receiver} refused to be told of {what}."
        case "gave_up":
            return f"{delivery.receiver} was not told of {what}: given up after {tries}."
        case _:
            return f"{delivery.receiver} is owed {what}" + (f"; {tries} failed." if delivery.attempts else ".")


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
