"""Deliveries: the state of each message to a receiver, as a record of ``tidewatch.notifications``. Pure.

The notifier writes the record in one transaction with its own state; the store part makes it a document beside the alert history.
Neither holds a receiver's address: a receiver is known by its name.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from service.errors import InvalidMessage

DeliveryEnd = Literal["sent", "refused", "gave_up"]
DeliveryState = Literal["owed", "sent", "refused", "gave_up"]


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One message to one receiver as it stands at ``at`` (wall-clock ms). ``attempts``: tries so far, those that failed included;
    ``problem``: the last failure. ``key``: its idempotency key."""

    key: str
    receiver: str
    state: DeliveryState
    reason: str
    labels: dict[str, str]
    alert_ids: list[str]
    owed_at: int
    at: int
    attempts: int = 0
    problem: str | None = None


_decoder: msgspec.json.Decoder[Delivery] = msgspec.json.Decoder(Delivery)


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
        raise InvalidMessage("not-a-delivery", f"A record of the notifications topic is not a delivery: {error}.") from error
