"""Every kind of message held against what on-call guides ask of a page, in each channel; nothing empty is printed."""

from __future__ import annotations

from email import policy
from email.parser import BytesParser
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.alerts.messages.circumstances import PLAIN, Circumstances, Earlier, Neighbour
from service.alerts.messages.facts import facts_of
from service.alerts.messages.message import TITLE_LIMIT, compose, leading, title, usual_band
from service.alerts.messages.moments import how_often, moment
from service.alerts.messages.units import unit_of, with_unit
from service.alerts.receivers.email import EmailNotifier
from service.alerts.receivers.slack import payload as slack_payload
from service.alerts.receivers.webhook import payload as webhook_payload
from service.domain import Alert, MemberScore, MetricShare, Severity, Status
from service.settings import EmailReceiver
from tests.alerts.makers import BORN, alert

NOW = BORN * 1000 + 50_000
CPU = MetricShare("cpu_percent", 0.6, 95.4, 41.0, 2.1, (*(41.0 + 0.1 * (i % 5) for i in range(40)), 90.0, 95.4))
NET = MetricShare("net.sent_bytes_s", 0.3, 447_680_032.0, 12_000_000.0, 900_000.0, (12e6, 11.9e6, 447_680_032.0))
USUAL = MetricShare("cpu.user", 0.1, 0.167, 0.182, 0.02, (0.18, 0.167))

KNOWN = Circumstances(
    zone="Europe/Berlin",
    now_ms=NOW,
    neighbours=(Neighbour("db-2", BORN * 1000 - 12_000, Severity.WARNING, "cpu", {"rack": "r2"}),),
    neighbours_total=3,
    shared="rack=r2: 3 of 3 hosts",
    earlier=Earlier(
        "ab" * 16, NOW - 20 * 86_400_000, NOW - 19 * 86_400_000, "quiet", "disk swapped", "ana", Severity.CRITICAL, "confirmed"
    ),
    earlier_count=3,
    runbook="https://wiki.example/db",
    owner="team-db",
    repeat_after_s=14_400.0,
    resolve_after_s=300.0,
    notified_severity=Severity.WARNING,
)


def an_alert(**changes: Any) -> Alert:
    facts: dict[str, Any] = {
        "metrics": (CPU, NET, USUAL),
        "members": (MemberScore("deep", 9.0, 1e-4), MemberScore("statistical", None, None, "timeout", "took over 30 s")),
        "labels": {"rack": "r2"},
        "every_days": 21.0,
        "calibrated_days": 5.0,
        "interval_ms": 1000,
        "metrics_at": NOW,
        "model_trained_at": NOW - 12 * 86_400_000,
        "bundle_version": "3f9c",
    }
    return alert(**(facts | changes))


# What each kind of message has to say, by its words. Of the sixteen things a page is asked for, the fifth is the picture and is
# looked at by itself.
WHAT_WHERE_HOW_MUCH = "db-7: cpu_percent 95.4 %"
COMMON = {
    "since when and how long": ["01:00:00 CET (00:00 UTC)"],
    "seen against expected, with units": ["448 MB/s instead of about 12 MB/s"],
    "what is missing": ["statistical (timeout: took over 30 s)"],
    "who else": ["rack=r2: 3 of 3 hosts", "db-2 12 s before (cpu) and 2 more"],
    "last time": ["20 d ago", "lasted 1 d", "disk swapped", "by ana", "confirmed", "3 times in 30 days"],
    "what to do": ["tidewatch alerts mark", "tidewatch alerts show"],
    "the link": ["https://k.example/"],
    "runbook and owner": ["https://wiki.example/db", "team-db"],
    "which model, how old": ["hosts 3f9c, trained 12 d ago"],
    "how sure, in time": ["about once in three weeks", "learned from 5 days"],
}
OPEN = COMMON | {
    "what, where, how much": [WHAT_WHERE_HOW_MUCH],
    "how long so far": ["for 50 seconds"],
    "what happens next": ["a reminder in 4 h", "quiet for 5 min"],
    "taking it": ["tidewatch alerts ack", "tidewatch silence add alert="],
}
KINDS: dict[str, tuple[Alert, Circumstances, dict[str, list[str]]]] = {
    "fired": (
        an_alert(),
        msgspec.structs.replace(KNOWN, notified_severity=None),
        OPEN | {"severity": ["[CRITICAL]"]},
    ),
    "raised": (an_alert(action="raised"), KNOWN, OPEN | {"severity": ["[CRITICAL]"], "worse": ["worse: warning to critical"]}),
    "lowered": (
        an_alert(action="lowered", severity=Severity.INFO),
        KNOWN,
        OPEN | {"severity": ["[INFO]"], "better": ["better: warning to info"]},
    ),
    "widened": (
        an_alert(action="widened", also=(MetricShare("db_conns", 0.5, 900.0, 100.0, 10.0),)),
        KNOWN,
        COMMON | {"what joined": ["now also db_conns 900"], "severity": ["[CRITICAL]"]},
    ),
    "reminder": (
        an_alert(action="updated", severity=Severity.WARNING),
        msgspec.structs.replace(KNOWN, is_reminder=True),
        OPEN | {"severity": ["[WARNING]"], "that it is one": ["still going on, a reminder"]},
    ),
    "resolved": (
        an_alert(status=Status.RESOLVED, reason="quiet for 30 s"),
        KNOWN,
        COMMON | {"over": ["[RESOLVED] db-7", "over: quiet for 30 s", "1 minute 30 seconds"]},
    ),
    "data health": (
        an_alert(kind="data_health", labels={"check": "silent", "rack": "r2"}, reason="sends nothing", metrics=(), members=()),
        KNOWN,
        {
            "what and where": ["db-7: sends nothing"],
            "since": ["01:00:00 CET (00:00 UTC)", "for 50 seconds"],
            "what to do": ["Look whether it runs", "tidewatch alerts show"],
            "next": ["a reminder in 4 h"],
            "whom to ask": ["https://wiki.example/db", "team-db"],
        },
    ),
}


def in_slack(each: Alert, known: Circumstances) -> str:
    made = slack_payload([each], {each.alert_id: known}, "https://k.example/{alert_id}")
    texts = [text["text"] for block in made["blocks"] for text in ([block["text"]] if "text" in block else block["elements"])]
    return "\n".join(texts).replace("*", "").replace("`", "")


def in_mail(each: Alert, known: Circumstances, kind: str) -> str:
    notifier = EmailNotifier(EmailReceiver(name="m", to=["a@example.com"], tls="none"), history_url="https://k.example/{alert_id}")
    mail = notifier.build([each], "k", NOW, {each.alert_id: known})
    body = BytesParser(policy=policy.default).parsebytes(mail.as_bytes()).get_body((kind,))
    assert body is not None
    text = str(mail["Subject"]) + "\n" + str(body.get_content())
    if kind == "html":
        assert "<td></td>" not in text.replace("\n", "")
        # seen and expected stand in columns of their own
        text = text.replace("</b></td><td>", " instead of about ").replace("<b>", "").replace("</b>", "")
    return text


def in_webhook(each: Alert, known: Circumstances) -> str:
    (said,) = webhook_payload([each], "k", {each.alert_id: known}, "https://k.example/{alert_id}")["alerts"]
    told = [said["title"], said["sentence"], said["history_url"]]
    told += [f"{fact['label']}: {fact['text']}" for fact in said["facts"]] + [command["line"] for command in said["commands"]]
    told += [compose(each, known).metrics[at].words for at in range(len(compose(each, known).metrics))]
    return "\n".join(told)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channel", ["slack", "plain", "html", "webhook"])
def test_every_kind_of_message_says_what_it_has_to(kind: str, channel: str) -> None:
    each, known, wanted = KINDS[kind]
    said = {
        "slack": lambda: in_slack(each, known),
        "plain": lambda: in_mail(each, known, "plain"),
        "html": lambda: in_mail(each, known, "html"),
        "webhook": lambda: in_webhook(each, known),
    }[channel]()
    lacking = {what: words for what, all_words in wanted.items() for words in all_words if words not in said}
    assert not lacking, said
    assert "cpu.user" not in said or channel == "webhook", "a metric within its usual band is not named"


@pytest.mark.parametrize("channel", ["slack", "plain", "html"])
def test_nothing_empty_is_printed(channel: str) -> None:
    bare = alert(members=(), labels={}, bundle="")
    said = in_slack(bare, PLAIN) if channel == "slack" else in_mail(bare, PLAIN, channel)
    labels = "Who else, Last time, Missing, Runbook, Owner, Next, Model, How sure, Now also, Labels, Taken by"
    for label in labels.split(", "):
        assert label not in said


@settings(deadline=None)
@given(
    entity=st.text(min_size=1, max_size=120),
    metric=st.text(min_size=1, max_size=120),
    actual=st.floats(-1e12, 1e12),
    severity=st.sampled_from(list(Severity)),
    action=st.sampled_from(["fired", "widened"]),
)
def test_the_title_fits_a_locked_phone_and_keeps_the_number(
    entity: str, metric: str, actual: float, severity: Severity, action: str
) -> None:
    share = MetricShare(metric, 0.5, actual, 1.0, 0.01)
    each = alert(entity, severity=severity, metrics=(share,), action=action, also=(share,) if action == "widened" else ())
    made = title(each)
    assert len(made) <= TITLE_LIMIT
    assert with_unit(actual, unit_of(metric), 0.01) in made


def test_a_metric_within_its_usual_band_does_not_lead_unless_all_are() -> None:
    assert leading((USUAL, CPU)) == [CPU]
    assert leading((USUAL, USUAL)) == [USUAL]


@pytest.mark.parametrize(
    ("metric", "value", "words"),
    [
        ("net.sent_bytes_s", 447_680_032.0, "448 MB/s"),
        ("heap_bytes", 1536.0, "1.54 kB"),
        ("net_tx_mbs", 1234.0, "1.23 GB/s"),
        ("disk_used_pct", 97.25, "97.2 %"),
        ("latency_p99_ms", 1234.0, "1.23 s"),
        ("latency_p99_ms", 0.25, "250 µs"),
        ("if_in_bps", 2.5e6, "2.5 Mbit/s"),
        ("query_seconds", 0.004, "4 ms"),
        ("repl_lag_s", 12.0, "12"),  # per second, or seconds: nobody knows
        ("items", 12.0, "12"),
        ("custom.flow", 12.0, "12 l/min"),
        ("heap_bytes", None, "no value"),
    ],
)
def test_values_have_the_unit_that_the_name_says(metric: str, value: float | None, words: str) -> None:
    assert with_unit(value, unit_of(metric, (("custom.*", "l/min"),))) == words


@settings(deadline=None)
@given(st.text(max_size=50), st.floats(allow_nan=True, allow_infinity=True), st.none() | st.floats(0, 1e300))
def test_any_name_and_value_makes_words(metric: str, value: float, spread: float | None) -> None:
    assert with_unit(value, unit_of(metric), spread)


@pytest.mark.parametrize(
    ("days", "words"),
    [
        (0.0005, "about once a minute"),
        (1 / 24, "about once in 60 minutes"),
        (0.25, "about once in six hours"),
        (1.0, "about once in 24 hours"),
        (3.0, "about once in three days"),
        (21.0, "about once in three weeks"),
        (100.0, "about once in three months"),
        (3653.0, "about once in ten years"),
        (1e9, "about once in 2,700,000 years"),
    ],
)
def test_how_often_is_told_in_time(days: float, words: str) -> None:
    assert how_often(days) == words


def test_times_are_told_where_the_reader_is_with_utc_beside() -> None:
    assert moment(BORN * 1000) == "2025-11-22 00:00:00 UTC"
    assert moment(BORN * 1000, "Europe/Berlin") == "2025-11-22 01:00:00 CET (00:00 UTC)"


def test_a_band_of_what_is_never_negative_begins_at_zero() -> None:
    assert usual_band(MetricShare("writes", 1.0, 900.0, 10.0, 20.0, (0.0, 5.0, 900.0))) == (0.0, 70.0)
    assert usual_band(MetricShare("offset", 1.0, 900.0, 10.0, 20.0, (-1.0, 900.0))) == (-50.0, 70.0)


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=300), st.text(max_size=300))
def test_a_note_or_label_begins_no_line_of_its_own_in_the_text_mail(note: str, value: str) -> None:
    earlier = Earlier("ab" * 16, NOW - 10**8, None, "quiet", note + "\n[RESOLVED] db-7: back to normal", "ana", Severity.INFO, "")
    known = msgspec.structs.replace(KNOWN, earlier=earlier, owner=value + "\r\nOwner: mallory")
    each = alert(labels={"rack": value + "\n[RESOLVED] all is well"})
    notifier = EmailNotifier(EmailReceiver(name="m", to=["a@example.com"], tls="none"))
    body = notifier._text.render(  # the words before they are wrapped for the wire
        **{**_context(each, known), "picture": None, "picture_alt": ""}
    )
    lines = body.splitlines()
    assert not any(line.startswith(("[RESOLVED]", "Owner: mallory")) for line in lines)
    assert len(facts_of(each, known, missing="", labels="")) > 0


def _context(each: Alert, known: Circumstances) -> dict[str, Any]:
    from service.alerts.messages.rendering import context

    return context([each], "k", {each.alert_id: known}, 10)


def test_of_data_read_late_the_time_of_the_data_counts() -> None:
    each = an_alert()
    (since, *_) = facts_of(each, msgspec.structs.replace(KNOWN, now_ms=NOW + 264 * 86_400_000), missing="", labels="")
    assert since.text.endswith("for 20 seconds")
