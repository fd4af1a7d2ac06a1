"""How a transition lies in the alerts topic: JSON, the key is the alert id. The only place that knows this format."""

from __future__ import annotations

import msgspec

from service.domain import Alert
from service.errors import InvalidMessage

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Alert)


def encode_transition(alert: Alert) -> tuple[bytes, bytes]:
    """The record of a transition, (key, value); NaN and infinity become null."""
    return alert.alert_id.encode(), _encoder.encode(alert)


def decode_transition(value: bytes | None) -> Alert:
    """The alert in a record's value. Raises ``InvalidMessage`` for anything that is not a transition."""
    if value is None:
        raise InvalidMessage("empty", "A record of the alerts topic has no value.")
    try:
        return _decoder.decode(value)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise InvalidMessage("not-an-alert", f"A record of the alerts topic is not an alert: {error}.") from error
