"""E-mail: plain text and HTML with an inline picture, through one SMTP server."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from email.message import EmailMessage
from email.utils import formatdate

import aiosmtplib

from service.alerts.messages.charts import described, draw
from service.alerts.messages.circumstances import NOTHING_KNOWN, PLAIN, ByAlert
from service.alerts.messages.groups import rank_first
from service.alerts.messages.rendering import Template, context, one_line
from service.clock import Clock, SystemClock
from service.domain import Alert
from service.errors import ConfigError, DeliveryFailed, DeliveryRefused
from service.observability.logging import get_logger
from service.settings import EmailReceiver, reveal

log = get_logger("email")

ALERTS_SHOWN = 20
SUBJECT_LIMIT = 180
PICTURE = "picture@tidewatch"


class EmailNotifier:
    """``Notifier`` for the mailboxes of one receiver. The key becomes the Message-ID, by which mail servers drop doubles."""

    def __init__(
        self, receiver: EmailReceiver, *, history_url: str | None = None, timeout: float = 10.0, clock: Clock | None = None
    ) -> None:
        self.name = receiver.name
        self._receiver = receiver
        self._history_url = history_url
        self._timeout = timeout
        self._clock = clock or SystemClock()
        self._text = Template("text", receiver.name, file=receiver.text_template, builtin="email.txt.j2")
        self._html = Template("html", receiver.name, file=receiver.html_template, builtin="email.html.j2")
        self._password = reveal(receiver.password, receiver.password_file)
        if not receiver.to:
            raise ConfigError(f"The receiver {receiver.name!r} has no mailbox.", hint="List at least one address under its 'to'.")
        if self._password is not None and receiver.tls == "none":
            raise ConfigError(
                f"The receiver {receiver.name!r} would send its password unencrypted.", hint="Set its tls to starttls or tls."
            )
        self._context = _tls_context(receiver) if receiver.tls != "none" else None

    async def send(self, alerts: Sequence[Alert], *, key: str, circumstances: ByAlert = NOTHING_KNOWN) -> None:
        """Send one message about ``alerts``."""
        message = await asyncio.to_thread(self.build, alerts, key, self._clock.now_ms(), circumstances)
        try:
            refused, _ = await aiosmtplib.send(
                message,
                sender=self._receiver.sender,
                recipients=list(self._receiver.to),
                hostname=self._receiver.host,
                port=self._receiver.port,
                username=self._receiver.username if self._password is not None else None,
                password=self._password,
                use_tls=self._receiver.tls == "tls",
                start_tls=self._receiver.tls == "starttls",
                tls_context=self._context,
                timeout=self._timeout,
            )
        except aiosmtplib.SMTPRecipientsRefused as error:
            if all(recipient.code >= 500 for recipient in error.recipients):
                raise DeliveryRefused(f"{self.name}: the mail server refuses every mailbox.") from None
            raise DeliveryFailed(f"{self.name}: the mail server takes no mailbox now.") from None
        except aiosmtplib.SMTPResponseException as error:
            said = f"{self.name}: the mail server answered {error.code}."
            raise (DeliveryRefused if error.code >= 500 else DeliveryFailed)(said) from None
        except (aiosmtplib.SMTPException, OSError) as error:
            raise DeliveryFailed(f"{self.name}: {self._receiver.host} did not take the e-mail ({type(error).__name__}).") from None
        if refused:
            log.warning("some mailboxes were refused", receiver=self.name, refused=len(refused), of=len(self._receiver.to))

    async def close(self) -> None:
        """Nothing stays open between messages."""

    def build(self, alerts: Sequence[Alert], key: str, now_ms: int, circumstances: ByAlert = NOTHING_KNOWN) -> EmailMessage:
        """The whole message. CPU work (it draws): call in a thread."""
        first = rank_first(alerts, circumstances)[0]
        picture = draw(first, circumstances.get(first.alert_id, PLAIN))
        values = context(alerts, key, circumstances, ALERTS_SHOWN, self._history_url)
        values |= {"picture": PICTURE if picture else None, "picture_alt": described(first.metrics)}
        mail = EmailMessage()
        mail["Subject"] = _one_line(values["title"])
        mail["From"] = self._receiver.sender
        mail["To"] = ", ".join(self._receiver.to)
        mail["Date"] = formatdate(now_ms / 1000)
        mail["Message-ID"] = f"<{key}@tidewatch>"
        mail["References"] = f"<{first.alert_id}@tidewatch>"  # firing and resolved become one conversation
        mail["Auto-Submitted"] = "auto-generated"
        mail["X-Tidewatch-Key"] = key
        mail.set_content(self._text.render(**values))
        mail.add_alternative(self._html.render(**values), subtype="html")
        if picture:
            html = mail.get_payload()[1]  # type: ignore[index]  # two alternatives were just added
            assert isinstance(html, EmailMessage)
            html.add_related(picture, "image", "png", cid=f"<{PICTURE}>", filename="metrics.png", disposition="inline")
        return mail


def _one_line(text: str) -> str:
    """A header value: entity names come from outside. A line break in one would forge headers, and so would an encoded word
    (``=?utf-8?b?…?=``), which the mail library decodes; a blank in its opening leaves it as text."""
    clean = one_line(text).replace("=?", "= ?")
    return clean if len(clean) <= SUBJECT_LIMIT else clean[: SUBJECT_LIMIT - 1] + "…"


def _tls_context(receiver: EmailReceiver) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(receiver.ca_file) if receiver.ca_file else None)
    except OSError as error:
        raise ConfigError(f"The ca_file of receiver {receiver.name!r} cannot be used: {error}.", hint="Give a PEM file.") from error
