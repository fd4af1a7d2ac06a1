"""Where messages are sent, by type of receiver."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr

from service.settings.base import Seconds, Section


class SlackReceiver(Section):
    """A Slack incoming webhook."""

    name: str
    type: Literal["slack"] = "slack"
    url: SecretStr | None = None
    url_file: Path | None = None
    template: Path | None = None  # Jinja2, makes the text of the message (Slack's mrkdwn)
    min_severity: Literal["info", "warning", "critical"] = "info"
    allow_http: bool = False


class EmailReceiver(Section):
    """A list of mailboxes behind one SMTP server."""

    name: str
    type: Literal["email"] = "email"
    to: list[str]
    sender: str = "tidewatch@localhost"
    host: str = "127.0.0.1"
    port: Annotated[int, Field(gt=0, lt=65536)] = 587
    tls: Literal["starttls", "tls", "none"] = "starttls"
    username: str | None = None
    password: SecretStr | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    text_template: Path | None = None  # Jinja2, each makes one form of the body
    html_template: Path | None = None
    min_severity: Literal["info", "warning", "critical"] = "info"


class WebhookReceiver(Section):
    """Any HTTP endpoint; the body is signed (HMAC-SHA256) when a secret is given."""

    name: str
    type: Literal["webhook"] = "webhook"
    url: SecretStr | None = None
    url_file: Path | None = None
    secret: SecretStr | None = None
    secret_file: Path | None = None
    template: Path | None = None  # Jinja2, makes the JSON body; instead of Tidewatch's own
    min_severity: Literal["info", "warning", "critical"] = "info"
    allow_http: bool = False


Receiver = Annotated[SlackReceiver | EmailReceiver | WebhookReceiver, Field(discriminator="type")]


class HeartbeatSettings(Section):
    """A webhook that is called while every part is alive and ready. When no call comes any more, Tidewatch has stopped."""

    url: SecretStr | None = None
    url_file: Path | None = None
    interval_seconds: Seconds = 60.0
    allow_http: bool = False
