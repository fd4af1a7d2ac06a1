"""What every ``Notifier`` promises, held against each of them and a real receiver."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest
from pydantic import SecretStr

from service.alerts.messages.sample import sample_alert
from service.alerts.notify.base import Notifier
from service.alerts.receivers.email import EmailNotifier
from service.alerts.receivers.slack import SlackNotifier
from service.alerts.receivers.webhook import WebhookNotifier
from service.errors import DeliveryFailed, DeliveryRefused
from service.settings import EmailReceiver, SlackReceiver, WebhookReceiver
from tests.alerts.makers import alert
from tests.alerts.servers import DROP, Behaviour, http_receiver, smtp_receiver


@dataclass
class Line:
    """A notifier joined to a receiver; ``arrived`` gives the keys of what the receiver has taken."""

    notifier: Notifier
    arrived: Callable[[], list[str]]


@contextlib.asynccontextmanager
async def line(kind: str, mood: str) -> AsyncIterator[Line]:
    """``mood``: ``well``, ``busy`` (try again) or ``never`` (will not take it)."""
    if kind == "email":
        replies = {"well": [], "busy": ["451 try later"], "never": ["554 no"]}[mood]
        async with smtp_receiver(*replies) as mailbox:
            receiver = EmailReceiver(name="mail", to=["a@example.com"], host="127.0.0.1", port=mailbox.port, tls="none")
            yield Line(EmailNotifier(receiver), lambda: [str(m["X-Tidewatch-Key"]) for m in mailbox.messages])
        return
    script = {"well": [], "busy": [Behaviour(503)], "never": [Behaviour(404)]}[mood]
    async with http_receiver(*script) as server:
        notifier: Notifier
        if kind == "slack":
            notifier = SlackNotifier(SlackReceiver(name="slack", url=SecretStr(server.url), allow_http=True))
        else:
            notifier = WebhookNotifier(WebhookReceiver(name="hook", url=SecretStr(server.url), allow_http=True))
        yield Line(notifier, lambda: [r.headers["idempotency-key"] for r in server.requests])


kinds = pytest.mark.parametrize("kind", ["slack", "email", "webhook"])


@kinds
async def test_one_alert_and_its_end_arrive_under_their_keys(kind: str) -> None:
    firing, resolved = sample_alert(1_763_769_600_000)
    async with line(kind, "well") as joined:
        await joined.notifier.send([firing], key="k1")
        await joined.notifier.send([resolved], key="k2")
        await joined.notifier.close()
        assert joined.arrived() == ["k1", "k2"]


@kinds
async def test_thousands_of_alerts_fit_into_one_message(kind: str) -> None:
    many = [alert(f"host-{n}", labels={"rack": str(n % 9)}) for n in range(3000)]
    async with line(kind, "well") as joined:
        await joined.notifier.send(many, key="storm")
        await joined.notifier.close()
        assert joined.arrived() == ["storm"]


@kinds
async def test_hostile_names_and_missing_facts_do_no_harm(kind: str) -> None:
    hostile = [
        alert("x\r\nBcc: evil@example.com\n<!channel> & <script>{{7*7}}$\\frac{1}{0}$", metrics=(), members=(), p=0.0, peak_p=0.0),
        alert("𝔤" * 5000, labels={f"k{n}": "v" * 1000 for n in range(40)}),
    ]
    async with line(kind, "well") as joined:
        for n, each in enumerate(hostile):
            await joined.notifier.send([each], key=f"h{n}")
        await joined.notifier.close()
        assert joined.arrived() == ["h0", "h1"]


@kinds
async def test_a_busy_receiver_is_tried_again_and_then_takes_it(kind: str) -> None:
    async with line(kind, "busy") as joined:
        with pytest.raises(DeliveryFailed):
            await joined.notifier.send([alert()], key="k")
        await joined.notifier.send([alert()], key="k")
        await joined.notifier.close()
        assert joined.arrived()[-1] == "k"


@kinds
async def test_a_receiver_that_says_never_is_a_refusal(kind: str) -> None:
    async with line(kind, "never") as joined:
        with pytest.raises(DeliveryRefused):
            await joined.notifier.send([alert()], key="k")
        await joined.notifier.close()


@pytest.mark.parametrize("kind", ["slack", "webhook"])
async def test_a_dropped_connection_is_tried_again(kind: str) -> None:
    async with http_receiver(DROP) as server:
        url = SecretStr(server.url)
        notifier: Notifier
        if kind == "slack":
            notifier = SlackNotifier(SlackReceiver(name="n", url=url, allow_http=True))
        else:
            notifier = WebhookNotifier(WebhookReceiver(name="n", url=url, allow_http=True))
        with pytest.raises(DeliveryFailed) as raised:
            await notifier.send([alert()], key="k")
        assert "s3cret" not in str(raised.value)
        await notifier.close()


async def test_a_mail_server_that_is_away_is_tried_again() -> None:
    receiver = EmailReceiver(name="mail", to=["a@example.com"], host="127.0.0.1", port=1, tls="none")
    with pytest.raises(DeliveryFailed):
        await EmailNotifier(receiver).send([alert()], key="k")
