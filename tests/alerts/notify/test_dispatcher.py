"""Delivery to real receivers that are busy, dead, slow or broken."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import pytest
from pydantic import SecretStr

from service.alerts.notify.base import Notifier
from service.alerts.notify.dispatcher import NotificationService
from service.alerts.notify.group_records import groups_of, records_of
from service.alerts.notify.grouping import Group
from service.alerts.notify.journal import Journal
from service.alerts.receivers.email import EmailNotifier
from service.alerts.receivers.slack import SlackNotifier
from service.alerts.receivers.webhook import WebhookNotifier
from service.clock import SystemClock
from service.domain import Alert, Severity
from service.errors import ConfigError
from service.settings import EmailReceiver, NotificationSettings, RouteSettings, SlackReceiver, WebhookReceiver
from tests.alerts.makers import alert, life
from tests.alerts.servers import DROP, HANG, Behaviour, HttpReceiver, Mailbox, http_receiver, smtp_receiver


def quick(settings: NotificationSettings) -> NotificationSettings:
    """The same receivers with waits for a test."""
    names = [receiver.name for receiver in settings.receivers]
    route = RouteSettings(receivers=names, group_wait_seconds=0.05, group_interval_seconds=0.2)
    return settings.model_copy(update={"routes": [route]})


def slack(server: HttpReceiver, name: str = "slack") -> SlackReceiver:
    return SlackReceiver(name=name, url=SecretStr(server.url), allow_http=True)


def mail(mailbox: Mailbox, name: str = "mail") -> EmailReceiver:
    return EmailReceiver(name=name, to=["ops@example.com"], host="127.0.0.1", port=mailbox.port, tls="none")


def notifier(receiver: SlackReceiver | EmailReceiver | WebhookReceiver) -> Notifier:
    if isinstance(receiver, SlackReceiver):
        return SlackNotifier(receiver)
    return EmailNotifier(receiver) if isinstance(receiver, EmailReceiver) else WebhookNotifier(receiver)


@contextlib.asynccontextmanager
async def service(
    settings: NotificationSettings, journal: Journal | None = None
) -> AsyncIterator[tuple[NotificationService, Counter[tuple[str, str]]]]:
    outcomes: Counter[tuple[str, str]] = Counter()
    made = NotificationService(
        quick(settings),
        {receiver.name: notifier(receiver) for receiver in settings.receivers},
        journal=journal or Journal(),
        clock=SystemClock(),
        on_outcome=lambda receiver, outcome: outcomes.update([(receiver, outcome)]),
        retry_wait=(0.01, 0.05),
    )
    await made.start()
    try:
        yield made, outcomes
    finally:
        await made.close()
    for receiver in settings.receivers:
        of = {what: count for (name, what), count in outcomes.items() if name == receiver.name}
        ended = sum(of.get(each, 0) for each in ("sent", "refused", "gave_up", "handed_over"))
        assert of.get("due", 0) == ended + made.unsettled(receiver.name)


def give(to: NotificationService, alerts: Sequence[Alert]) -> None:
    to.accept([(each, -1) for each in alerts])


def recording(journal: Journal) -> dict[bytes, bytes]:
    """What the journal's owner records, as the topic would hold it."""
    kept: dict[bytes, bytes] = {}
    recorded: dict[str, Group | None] = {}

    async def record() -> bool:
        for key, group in journal.take_changes().groups.items():
            for name, value in records_of(key, recorded.get(key), group).items():
                if value is None:
                    kept.pop(name, None)
                else:
                    kept[name] = value
            recorded[key] = group
        return True

    journal.record_with(record)
    return kept


async def test_firing_and_resolved_reach_slack_and_mail() -> None:
    async with http_receiver() as server, smtp_receiver() as mailbox:
        settings = NotificationSettings(receivers=[slack(server), mail(mailbox)], attempt_timeout_seconds=60)
        async with service(settings) as (sending, outcomes):
            opened, fired, resolved = life()
            give(sending, [opened, fired])
            assert await sending.drained(30)
            give(sending, [resolved])
            assert await sending.drained(30)
        assert [r.json["text"].split("]")[0] for r in server.requests] == ["🔴 [CRITICAL", "✅ [RESOLVED"]
        assert [str(m["Subject"]).split("]")[0] for m in mailbox.messages] == ["[CRITICAL", "[RESOLVED"]
        assert outcomes == {("slack", "due"): 2, ("slack", "sent"): 2, ("mail", "due"): 2, ("mail", "sent"): 2}


async def test_a_dead_slack_never_delays_mail() -> None:
    async with http_receiver(otherwise=HANG) as server, smtp_receiver() as mailbox:
        settings = NotificationSettings(receivers=[slack(server), mail(mailbox)], attempt_timeout_seconds=30)
        async with service(settings) as (sending, outcomes):
            for n in range(3):
                give(sending, life(f"host-{n}")[:2])
                async with asyncio.timeout(20):
                    while outcomes[("mail", "sent")] < n + 1:
                        await asyncio.sleep(0.02)
            assert outcomes == {("mail", "due"): 3, ("mail", "sent"): 3, ("slack", "due"): 1}
            assert len(mailbox.messages) == 3
            server.release()


async def test_busy_failing_hanging_and_dropping_receivers_get_everything_once_and_in_order() -> None:
    script = [Behaviour(429, {"retry-after": "0.2"}), Behaviour(500), DROP, HANG, Behaviour(503)]
    async with http_receiver(*script) as server:
        settings = NotificationSettings(receivers=[slack(server)], attempt_timeout_seconds=0.3)
        async with service(settings) as (sending, outcomes):
            opened, fired, resolved = life()
            give(sending, [opened, fired])
            assert await sending.drained(30)
            give(sending, [resolved])
            assert await sending.drained(30)
        answered = server.requests[len(script) :]
        assert len({r.headers["idempotency-key"] for r in server.requests[: len(script) + 1]}) == 1
        assert [r.json["text"].split("]")[0] for r in answered] == ["🔴 [CRITICAL", "✅ [RESOLVED"]
        assert outcomes == {("slack", "due"): 2, ("slack", "retried"): 5, ("slack", "sent"): 2}


async def test_retry_after_is_waited_for() -> None:
    async with http_receiver(Behaviour(429, {"retry-after": "1.5"})) as server:
        async with service(NotificationSettings(receivers=[slack(server)])) as (sending, outcomes):
            give(sending, life()[:2])
            await asyncio.sleep(1.0)  # with its own backoff of at most 0.05 s it would have tried again by now
            assert len(server.requests) == 1
            assert await sending.drained(30)
        assert outcomes[("slack", "sent")] == 1


async def test_a_deadline_ends_trying_and_says_so() -> None:
    async with http_receiver(otherwise=Behaviour(500)) as server:
        settings = NotificationSettings(receivers=[slack(server)], deadline_seconds=0.3)
        async with service(settings) as (sending, outcomes):
            give(sending, life()[:2])
            assert await sending.drained(30)
        assert outcomes[("slack", "gave_up")] == 1
        assert outcomes[("slack", "retried")] >= 1


async def test_a_refusal_is_not_tried_again() -> None:
    async with http_receiver(otherwise=Behaviour(410, body=b"no_service")) as server:
        async with service(NotificationSettings(receivers=[slack(server)])) as (sending, outcomes):
            give(sending, life()[:2])
            assert await sending.drained(30)
        assert len(server.requests) == 1
        assert outcomes == {("slack", "due"): 1, ("slack", "refused"): 1}


async def test_redirects_are_not_followed() -> None:
    async with http_receiver() as inside, http_receiver(otherwise=Behaviour(302, {"location": inside.url})) as server:
        async with service(NotificationSettings(receivers=[slack(server)])) as (sending, outcomes):
            give(sending, life()[:2])
            assert await sending.drained(30)
        assert inside.requests == []
        assert outcomes == {("slack", "due"): 1, ("slack", "refused"): 1}


async def test_each_receiver_has_its_own_least_severity() -> None:
    async with http_receiver() as all_of_it, http_receiver() as only_worst:
        receivers = [
            WebhookReceiver(name="all", url=SecretStr(all_of_it.url), allow_http=True, min_severity="info"),
            WebhookReceiver(name="worst", url=SecretStr(only_worst.url), allow_http=True, min_severity="critical"),
        ]
        async with service(NotificationSettings(receivers=receivers)) as (sending, _):
            give(sending, [alert("a", severity=Severity.INFO), alert("b", severity=Severity.CRITICAL)])
            assert await sending.drained(30)
        assert [r.json["count"] for r in all_of_it.requests] == [2]
        assert [[a["entity"] for a in r.json["alerts"]] for r in only_worst.requests] == [["b"]]


async def test_a_storm_makes_a_handful_of_messages() -> None:
    async with http_receiver() as server, smtp_receiver() as mailbox:
        async with service(NotificationSettings(receivers=[slack(server), mail(mailbox)])) as (sending, _):
            storm = [alert(f"host-{n}") for n in range(10_000)]
            for start in range(0, len(storm), 500):
                give(sending, storm[start : start + 500])
                await asyncio.sleep(0)
            assert await sending.drained(60)
        assert len(server.requests) <= 5
        assert len(mailbox.messages) <= 5
        title = server.requests[-1].json["text"]  # how many were told before it depends on how fast the first message went
        assert sum(int(count.replace(",", "")) for count in re.findall(r"([\d,]+) (?:new |older )?alert", title)) == 10_000


async def test_what_is_owed_is_known_until_it_is_told() -> None:
    async with http_receiver(otherwise=HANG) as server:
        settings = NotificationSettings(receivers=[slack(server)], attempt_timeout_seconds=30)
        async with service(settings) as (sending, _):
            opened, fired, _ = life()
            sending.accept([(opened, 40), (fired, 41)])
            assert sending.unsent_from() == 41
            server.otherwise = Behaviour()
            server.release()  # the hanging request is cut, the next try is answered
            assert await sending.drained(30)
            assert sending.unsent_from() is None


async def test_state_given_to_another_service_goes_on() -> None:
    async with http_receiver() as server:
        settings = NotificationSettings(receivers=[slack(server)])
        opened, fired, resolved = life()
        journal = Journal()
        async with service(settings, journal) as (first, _):
            kept = recording(journal)
            give(first, [opened, fired])
            assert await first.drained(30)
        async with service(settings) as (second, _):
            second.restore(groups_of(kept))
            give(second, [opened, fired])  # read again: nothing new
            give(second, [resolved])
            assert await second.drained(30)
        assert [r.json["text"].split("]")[0] for r in server.requests] == ["🔴 [CRITICAL", "✅ [RESOLVED"]


async def test_a_message_owed_at_a_death_goes_out_as_it_was_before_anything_newer() -> None:
    async with http_receiver(otherwise=HANG) as server:
        settings = NotificationSettings(receivers=[slack(server)], attempt_timeout_seconds=30)
        opened, fired, resolved = life()
        journal = Journal()
        async with service(settings, journal) as (first, _):
            kept = recording(journal)
            give(first, [opened, fired])
            async with asyncio.timeout(30):
                while not server.requests:
                    await asyncio.sleep(0.01)
            owed = dict(kept)  # what the topic holds when the process dies here
            server.otherwise = Behaviour()
            server.release()
        async with service(settings) as (second, _):
            second.restore(groups_of(owed))
            give(second, [resolved, *life("db-8")[:2]])
            assert await second.drained(30)
        again = [
            request
            for request in server.requests
            if request.headers["idempotency-key"] == server.requests[0].headers["idempotency-key"]
        ]
        assert len(again) >= 2
        assert {request.body for request in again} == {server.requests[0].body}
        assert b"db-8" in server.requests[-1].body
        assert b"db-8" not in server.requests[0].body


async def test_nobody_is_told_anything_while_it_cannot_be_recorded() -> None:
    async with http_receiver() as server:
        journal = Journal()
        async with service(NotificationSettings(receivers=[slack(server)]), journal) as (sending, _):

            async def refuse() -> bool:
                sending.forget()
                return False

            journal.record_with(refuse)
            give(sending, life()[:2])
            await asyncio.sleep(0.5)  # ten times its group wait
        assert server.requests == []


async def test_secrets_reach_no_log(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    caplog.set_level(logging.DEBUG)
    revoked = Behaviour(403, body=b"/services/s3cret is revoked")
    async with (
        http_receiver(Behaviour(500), DROP, otherwise=revoked) as server,
        service(NotificationSettings(receivers=[slack(server)])) as (sending, outcomes),
    ):
        give(sending, life()[:2])
        assert await sending.drained(30)
    assert outcomes[("slack", "refused")] == 1
    printed = capsys.readouterr()
    assert "s3cret" not in caplog.text + printed.out + printed.err


@pytest.mark.parametrize(
    ("receiver", "why"),
    [
        (SlackReceiver(name="s", url=SecretStr("http://example.com/x")), "needs an https URL"),
        (SlackReceiver(name="s"), "has no url"),
        (WebhookReceiver(name="w", url=SecretStr("ftp://example.com"), allow_http=True), "needs an https URL"),
        (EmailReceiver(name="m", to=[]), "has no mailbox"),
        (EmailReceiver(name="m", to=["a@b"], tls="none", username="u", password=SecretStr("p")), "unencrypted"),
    ],
)
def test_unusable_receivers_are_refused_at_start(receiver: SlackReceiver | EmailReceiver | WebhookReceiver, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as raised:
        notifier(receiver)
    assert raised.value.hint
