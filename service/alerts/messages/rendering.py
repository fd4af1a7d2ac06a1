"""Jinja2 in a sandbox: templates see finished text, and can call nothing that has an effect.

Built-in templates lie in ``service/alerts/messages/templates``; a receiver may name files of its own. Every template sees
``title``, ``opening`` (one sentence), ``messages`` (``message.Message``, most severe first), ``more`` (alerts left out),
``count``, ``tone`` (``critical``, ``warning``, ``info`` or ``resolved``), ``key``; e-mail also ``picture`` and ``picture_alt``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import jinja2
import msgspec
from jinja2.sandbox import ImmutableSandboxedEnvironment

from service.alerts.messages.circumstances import PLAIN, ByAlert
from service.alerts.messages.groups import opening, rank_first, summary_title
from service.alerts.messages.message import compose
from service.alerts.messages.sample import sample_alert
from service.domain import Alert, Status
from service.errors import ConfigError

Kind = Literal["html", "text", "slack", "json"]


def context(
    alerts: Sequence[Alert], key: str, circumstances: ByAlert, shown: int, history_url: str | None = None
) -> dict[str, Any]:
    """The variables of a template about these alerts; the first ``shown`` of them have a message of their own."""
    ordered = rank_first(alerts, circumstances)
    messages = [compose(alert, circumstances.get(alert.alert_id, PLAIN), history_url) for alert in ordered[:shown]]
    over = all(alert.status is Status.RESOLVED for alert in ordered)
    return {
        "title": summary_title(ordered, circumstances),  #: the subject line
        "opening": opening(ordered, circumstances),  #: one sentence about all the alerts
        "messages": messages,  #: as many alerts as the receiver shows: what is new to it first, then the most severe
        "more": len(ordered) - len(messages),  #: how many alerts are left out of ``messages``
        "count": len(ordered),  #: how many alerts the message is about
        "tone": "resolved" if over else messages[0].severity,  #: ``critical``, ``warning``, ``info`` or ``resolved``
        "key": key,  #: the idempotency key: the same for each attempt to send this message
    }


def slack_escape(text: str) -> str:
    """Slack's three control characters as entities; nothing from outside becomes a mention or a link."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def one_line(text: str) -> str:
    """Text without line breaks and controls: in a plain text, what comes from outside begins no line of its own."""
    return " ".join("".join(ch if ch.isprintable() else " " for ch in text).split())


@lru_cache(maxsize=4)
def environment(kind: Kind) -> ImmutableSandboxedEnvironment:
    """HTML and Slack output is escaped whatever a template says; in plain text, a value is one line. An undefined name is an error,
    not an empty string."""
    finalize = {"slack": lambda value: slack_escape(str(value)), "text": lambda value: one_line(str(value))}.get(kind)
    return ImmutableSandboxedEnvironment(
        loader=jinja2.PackageLoader("service.alerts.messages", "templates"),
        autoescape=kind == "html",
        finalize=finalize,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


class Template:
    """One template. It is rendered with sample alerts when it is made, so that a mistake is found at start.

    ``file`` overrides the ``builtin`` one of that name. Raises ``ConfigError`` naming receiver, file and mistake.
    """

    def __init__(self, kind: Kind, receiver: str, *, file: Path | None, builtin: str | None = None) -> None:
        self._kind = kind
        try:
            if file is None:
                assert builtin is not None
                self._template = environment(kind).get_template(builtin)
            else:
                self._template = environment(kind).from_string(file.read_text(encoding="utf-8"))
            firing, resolved = sample_alert(1_763_769_600_000)
            for alerts in ([firing], [resolved], [firing, resolved]):
                self.render(**context(alerts, "sample", {}, 10), picture="picture", picture_alt="a picture")
        except (jinja2.TemplateError, OSError, ValueError, TypeError, ArithmeticError, AttributeError) as error:
            raise ConfigError(
                f"The template {file or builtin} of receiver {receiver!r} does not work: {error}.",
                hint="docs/reference/templates.md lists the names that a template can use.",
            ) from error

    def render(self, **values: Any) -> str:
        """The text. A ``json`` template that makes no JSON raises ``ValueError``."""
        text = self._template.render(**values)
        if self._kind == "json":
            try:
                msgspec.json.decode(text)
            except msgspec.DecodeError as error:
                raise ValueError(f"it does not make JSON: {error}") from error
        return text
