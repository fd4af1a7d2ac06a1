"""Any HTTP endpoint: the alerts as JSON, signed when a secret is given, with the idempotency key as a header.

The signature follows the widespread ``t=seconds,v1=hex`` form: HMAC-SHA256 of ``"{t}." + body``. A receiver should compare in
constant time and refuse a ``t`` more than some minutes old.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Any

import msgspec

from service.alerts.messages.circumstances import NOTHING_KNOWN, PLAIN, ByAlert
from service.alerts.messages.groups import rank_first, summary_title
from service.alerts.messages.message import compose
from service.alerts.messages.rendering import Template, context
from service.alerts.receivers.http import Post
from service.clock import Clock, SystemClock
from service.domain import Alert
from service.settings import WebhookReceiver, reveal

ALERTS_SENT = 500
VERSION = 1


class WebhookNotifier:
    """``Notifier`` for one webhook."""

    def __init__(
        self, receiver: WebhookReceiver, *, history_url: str | None = None, timeout: float = 10.0, clock: Clock | None = None
    ) -> None:
        self.name = receiver.name
        self._history_url = history_url
        self._secret = reveal(receiver.secret, receiver.secret_file)
        self._template = Template("json", receiver.name, file=receiver.template) if receiver.template else None
        self._clock = clock or SystemClock()
        self._post = Post(receiver.name, receiver.url, receiver.url_file, allow_http=receiver.allow_http, timeout=timeout)

    async def send(self, alerts: Sequence[Alert], *, key: str, circumstances: ByAlert = NOTHING_KNOWN) -> None:
        """Post one message about ``alerts``."""
        if self._template is None:
            body = msgspec.json.encode(payload(alerts, key, circumstances, self._history_url))
        else:
            body = self._template.render(**context(alerts, key, circumstances, ALERTS_SENT, self._history_url)).encode()
        headers = {"content-type": "application/json", "idempotency-key": key}
        if self._secret is not None:
            headers["x-tidewatch-signature"] = sign(body, self._secret, self._clock.now_ms() // 1000)
        await self._post.send(body, headers)

    async def close(self) -> None:
        """Close the connections."""
        await self._post.close()


def payload(
    alerts: Sequence[Alert], key: str, circumstances: ByAlert = NOTHING_KNOWN, history_url: str | None = None
) -> dict[str, Any]:
    """``version``, ``key``, ``title``, ``count`` and the most severe ``alerts`` (at most 500), each with its
    title, sentence, facts (``label``, ``text``), commands and whole state."""
    ordered = rank_first(alerts, circumstances)
    shown = []
    for alert in ordered[:ALERTS_SENT]:
        message = compose(alert, circumstances.get(alert.alert_id, PLAIN), history_url)
        said = {"title": message.title, "sentence": message.sentence, "history_url": message.history_url}
        facts = {"facts": msgspec.to_builtins(message.facts), "commands": msgspec.to_builtins(message.commands)}
        shown.append({**said, **facts, **msgspec.to_builtins(alert)})
    return {"version": VERSION, "key": key, "title": summary_title(ordered, circumstances), "count": len(ordered), "alerts": shown}


def sign(body: bytes, secret: str, seconds: int) -> str:
    """The value of ``X-Tidewatch-Signature``."""
    digest = hmac.new(secret.encode(), f"{seconds}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={seconds},v1={digest}"
