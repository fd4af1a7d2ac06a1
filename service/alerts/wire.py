"""How a transition lies in the alerts topic: JSON, the key is the alert id."""

from __future__ import annotations

import msgspec

from service.domain import Alert
from service.errors import InvalidMessage

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Alert)


def encode(alert: Alert) -> bytes:
    """The record value of a transition; NaN and infinity become null."""
    return _encoder.encode(alert)


def encode_key(alert: Alert) -> bytes:
    """The record key of a transition."""
    return alert.alert_id.encode()


def decode(value: bytes | None) -> Alert:
    """The inverse of ``encode``. Raises ``InvalidMessage`` for anything that is not a transition."""
    if value is None:
        raise InvalidMessage("empty", "A record of the alerts topic has no value.")
    try:
        return _decoder.decode(value)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise InvalidMessage("not-an-alert", f"A record of the alerts topic is not an alert: {error}.") from error
