"""The words, the limits of the channels, and what a hostile or a mistaken hand may do to them."""

from __future__ import annotations

import math
import re
from email import policy
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from service.alerts.messages.charts import draw
from service.alerts.messages.groups import summary_sentence, summary_title
from service.alerts.messages.message import compose, metric_line, one_in, sentence, title
from service.alerts.messages.numbers import number, sparkline
from service.alerts.messages.sample import sample_alert
from service.alerts.receivers.email import EmailNotifier
from service.alerts.receivers.slack import BLOCK_LIMIT, HEADER_LIMIT, TEXT_LIMIT, SlackNotifier, payload
from service.alerts.receivers.webhook import WebhookNotifier, sign
from service.alerts.times import span_words
from service.alerts.topics.transitions import decode_transition, encode_transition
from service.clock import ManualClock
from service.domain import Alert, MemberScore, MetricShare, Severity, Status
from service.errors import ConfigError, InvalidMessage
from service.settings import EmailReceiver, SlackReceiver, WebhookReceiver
from tests.alerts.makers import alert, life
from tests.alerts.servers import http_receiver

NOW = 1_763_769_660_000


@pytest.mark.parametrize(
    ("value", "spread", "words"),
    [
        (95.4123, 2.1, "95.4"),
        (41.0, 2.1, "41"),
        (0.123456, 0.01, "0.123"),
        (1234567.0, 50_000.0, "1,234,567"),
        (12.3456, None, "12.3"),
        (0.0, 1.0, "0"),
        (-0.0000000001, None, "-1.00e-10"),
        (3e20, None, "3.00e+20"),
        (math.nan, None, "no value"),
        (None, 1.0, "no value"),
    ],
)
def test_numbers_are_rounded_to_what_matters(value: float | None, spread: float | None, words: str) -> None:
    assert number(value, spread) == words


@pytest.mark.parametrize(
    ("p", "words"),
    [(0.5, "about one window in 2"), (2.6e-6, "about one window in 380,000"), (1.0, "about one window in 1"), (0.0, "never seen")],
)
def test_probabilities_become_one_in_so_many(p: float, words: str) -> None:
    assert one_in(p) == words


@pytest.mark.parametrize(
    ("milliseconds", "short", "long"),
    [
        (0, "0 s", "0 seconds"),
        (45_000, "45 s", "45 seconds"),
        (61_000, "1 min 1 s", "1 minute 1 second"),
        (12 * 60_000 + 5000, "12 min", "12 minutes"),
        (3 * 3_600_000 + 20 * 60_000, "3 h 20 min", "3 hours 20 minutes"),
        (52 * 3_600_000, "2 d 4 h", "2 days 4 hours"),
    ],
)
def test_lengths_of_time(milliseconds: int, short: str, long: str) -> None:
    assert span_words(milliseconds) == short
    assert span_words(milliseconds, "long") == long


def test_sparklines_show_the_odd_row_and_the_gap() -> None:
    assert sparkline([1, 2, 3, 4, 5, 6, 7, 8]) == "▁▂▃▄▅▆▇█"
    assert sparkline([1.0, None, 1.0]) == "▅ ▅"
    assert sparkline([]) == sparkline([None, math.nan]) == ""
    wide = sparkline([0.0] * 50 + [9.0] + [0.0] * 49)
    assert len(wide) == 24
    assert wide.count("█") == 1  # one odd row among a hundred is not averaged away


def test_a_sparkline_that_begins_with_a_spike_shows_it_and_the_next_one() -> None:
    drawn = sparkline([9.0] + [0.0] * 49 + [9.0] + [0.0] * 49)
    assert [at for at, mark in enumerate(drawn) if mark == "█"] == [0, 12]
    assert drawn.count("▁") == 22


@given(st.sets(st.integers(0, 99), min_size=1, max_size=12), st.sampled_from([-9.0, 9.0]))
def test_a_sparkline_shows_every_spike_wherever_it_stands(spikes: set[int], height: float) -> None:
    drawn = sparkline([height if at in spikes else 0.0 for at in range(100)], width=20)
    shown = "█" if height > 0 else "▁"
    assert {at for at, mark in enumerate(drawn) if mark == shown} == {at // 5 for at in spikes}


def test_the_sentence_of_every_status() -> None:
    opened, fired, resolved = life()
    assert sentence(opened).startswith("db-7 may be behaving unusually since 2025-11-22 00:00:00 UTC, mainly cpu_percent")
    assert sentence(fired).startswith("db-7 is behaving unusually since")
    assert sentence(resolved) == (
        "db-7 was unusual for 1 minute 30 seconds from 2025-11-22 00:00:00 UTC (critical at its worst); "
        "closed: 2 of the last 3 windows unusual on their newest rows."
    )
    assert title(fired) == "[CRITICAL] db-7: cpu_percent 95.4 % instead of about 41 %"
    assert title(resolved) == "[RESOLVED] db-7: back to normal"
    assert title(alert(status=Status.RESOLVED, reason="accepted as the new normal after 1 d")) == (
        "[RESOLVED] db-7: accepted as the new normal after 1 d"
    )


def test_votes_and_missing_detectors_are_named() -> None:
    members = (MemberScore("deep", 9.0, 1e-4), MemberScore("statistical", None, None, "timeout", "no answer within 30 s"))
    message = compose(alert(members=members), history_url="https://kibana.example/{alert_id}")
    assert message.voted == "deep (about one window in 10,000)"
    assert message.missing == "statistical (timeout: no answer within 30 s)"
    assert message.history_url == f"https://kibana.example/{alert().alert_id}"


def test_many_alerts_become_one_sentence_about_what_they_share() -> None:
    many = [alert(f"host-{n}", severity=Severity.WARNING, labels={"rack": "7", "n": str(n)}) for n in range(50)]
    assert summary_title(many) == "[WARNING] 50 alerts firing on 50 entities"
    assert summary_sentence(many) == (
        "They began at 2025-11-22 00:00:00 UTC: 50 warning; cpu_percent stands out most on 50 of them; all of them have rack=7."
    )
    over = [alert("a", status=Status.RESOLVED, seq=3), *many]
    assert summary_title(over) == "[WARNING] 50 alerts firing on 50 entities, 1 resolved"
    assert summary_title(list(over[:1] * 2)) == "[RESOLVED] 2 alerts are over on a"


TEXT = st.text(max_size=400)
ALERTS = st.builds(
    lambda entity, metric, labels, p, recent, status, reason: alert(
        entity or "e",
        status=status,
        labels=labels,
        p=p,
        peak_p=p,
        reason=reason,
        metrics=(
            MetricShare(
                metric,
                0.5,
                recent[0] if recent else None,
                recent[-1] if recent else 1.0,
                abs((recent or [0.5])[-1] or 0.5),
                tuple(recent),
            ),
        ),
    ),
    TEXT,
    TEXT,
    st.dictionaries(TEXT, TEXT, max_size=3),
    st.floats(0, 1),
    st.lists(st.none() | st.floats(allow_nan=False, allow_infinity=False), max_size=40),
    st.sampled_from([Status.FIRING, Status.RESOLVED]),
    TEXT,
)


def texts(block: dict[str, Any]) -> list[dict[str, Any]]:
    return [block["text"]] if "text" in block else block["elements"]


@given(st.lists(ALERTS, min_size=1, max_size=12))
@settings(max_examples=30, deadline=None)
def test_slack_stays_within_its_limits_and_nothing_becomes_a_mention(alerts: list[Alert]) -> None:
    made = payload(alerts, history_url="https://kibana.example/{alert_id}")
    assert 0 < len(made["blocks"]) <= BLOCK_LIMIT
    for block in made["blocks"]:
        for text in texts(block):
            assert 0 < len(text["text"]) <= (HEADER_LIMIT if block["type"] == "header" else TEXT_LIMIT)
            if text["type"] == "mrkdwn":
                assert "<!" not in text["text"]
                assert set(re.findall(r"<([^|>]*)", text["text"])) <= {f"https://kibana.example/{a.alert_id}" for a in alerts}
    msgspec.json.encode(made)


@given(ALERTS)
@settings(max_examples=15, deadline=None)
def test_an_e_mail_survives_any_words(each: Alert) -> None:
    notifier = EmailNotifier(EmailReceiver(name="m", to=["a@example.com", "b@example.com"], tls="none"))
    read = BytesParser(policy=policy.default).parsebytes(notifier.build([each], "k", NOW).as_bytes())
    assert read["To"] == "a@example.com, b@example.com"
    assert read["Bcc"] is None
    assert read["X-Tidewatch-Key"] == "k"
    plain, html = read.get_body(("plain",)), read.get_body(("html",))
    assert plain is not None
    assert html is not None
    assert "<script" not in html.get_content()


def test_an_e_mail_has_text_html_and_the_picture_inline() -> None:
    firing, _ = sample_alert(NOW)
    notifier = EmailNotifier(EmailReceiver(name="m", to=["a@example.com"], tls="none"), history_url="https://k.example/{alert_id}")
    read = BytesParser(policy=policy.default).parsebytes(notifier.build([firing], "k", NOW).as_bytes())
    kinds = [part.get_content_type() for part in read.walk()]
    assert kinds == ["multipart/alternative", "text/plain", "multipart/related", "text/html", "image/png"]
    html, picture = [part for part in read.walk() if part.get_content_type() in ("text/html", "image/png")]
    assert f"cid:{picture['Content-ID'].strip('<>')}" in html.get_content()
    assert picture.get_content().startswith(b"\x89PNG")
    assert "prefers-color-scheme: dark" in html.get_content()
    assert f"https://k.example/{firing.alert_id}" in html.get_content()


def test_no_picture_without_rows_to_draw() -> None:
    assert draw(alert(metrics=())) is None
    assert draw(alert(metrics=(MetricShare("m", 1.0, None, None, None, (None, None)),))) is None


@given(ALERTS)
@settings(max_examples=40, deadline=None)
def test_transitions_survive_the_wire(each: Alert) -> None:
    assert decode_transition(encode_transition(each)[1]) == each


@given(st.binary(max_size=200))
def test_anything_else_on_the_wire_is_an_invalid_message(value: bytes) -> None:
    with pytest.raises(InvalidMessage):
        decode_transition(value)


def test_a_webhook_s_signature_can_be_checked() -> None:
    # computed with: printf '1763769660.{}' | openssl dgst -sha256 -hmac secret
    assert sign(b"{}", "secret", 1_763_769_660) == (
        "t=1763769660,v1=e1734717774c4c379f8038f18810b5a4048bcc99c84d4acd6ad5c83f93ed04d4"
    )


async def test_a_webhook_is_signed_over_what_it_sends(tmp_path: Path) -> None:
    async with http_receiver() as server:
        receiver = WebhookReceiver(name="w", url=SecretStr(server.url), secret=SecretStr("secret"), allow_http=True)
        notifier = WebhookNotifier(receiver, clock=ManualClock(NOW))
        await notifier.send([alert()], key="k")
        await notifier.close()
        request = server.requests[0]
    assert request.headers["x-tidewatch-signature"] == sign(request.body, "secret", NOW // 1000)
    assert request.json["key"] == "k"


async def test_receivers_may_have_templates_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "slack.j2").write_text("*{{ title }}* {% for m in messages %}{{ m.entity }} {% endfor %}")
    (tmp_path / "hook.j2").write_text('{"summary": {{ title|tojson }}, "dedup_key": {{ key|tojson }}}')
    (tmp_path / "mail.j2").write_text("{{ count }} alert(s): {{ title }}")
    async with http_receiver() as server:
        slack = SlackNotifier(SlackReceiver(name="s", url=SecretStr(server.url), allow_http=True, template=tmp_path / "slack.j2"))
        hook = WebhookNotifier(WebhookReceiver(name="w", url=SecretStr(server.url), allow_http=True, template=tmp_path / "hook.j2"))
        await slack.send([alert("<!channel>")], key="k")
        await hook.send([alert('quo"te')], key="k")
        await slack.close()
        await hook.close()
        first, second = server.requests
    assert first.json["blocks"][0]["text"]["text"].endswith("&lt;!channel&gt;")
    assert second.json == {"summary": '[CRITICAL] quo"te: cpu_percent 95.4 % instead of about 41 %', "dedup_key": "k"}
    mail = EmailNotifier(EmailReceiver(name="m", to=["a@example.com"], tls="none", text_template=tmp_path / "mail.j2"))
    body = mail.build([alert()], "k", NOW).get_body(("plain",))
    assert body is not None
    assert body.get_content().strip() == "1 alert(s): [CRITICAL] db-7: cpu_percent 95.4 % instead of about 41 %"


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ titel }}", "'titel' is undefined"),
        ("{% if %}", "Expected an expression"),
        ("{{ messages[0].__class__.__mro__ }}", "unsafe"),
        ("{{ ''.__class__.__base__.__subclasses__() }}", "unsafe"),
        ('{"a": {{ title }}}', "does not make JSON"),
        ("{{ 1 / 0 }}", "division by zero"),
    ],
)
def test_a_mistaken_or_wicked_template_is_refused_at_start(tmp_path: Path, template: str, why: str) -> None:
    (tmp_path / "t.j2").write_text(template)
    with pytest.raises(ConfigError, match=re.escape(why)) as raised:
        WebhookNotifier(WebhookReceiver(name="w", url=SecretStr("https://example.com/"), template=tmp_path / "t.j2"))
    assert "receiver 'w'" in str(raised.value)


def test_a_template_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.j2"):
        SlackNotifier(SlackReceiver(name="s", url=SecretStr("https://example.com/"), template=tmp_path / "absent.j2"))


def test_what_was_never_below_zero_is_not_said_to_go_there() -> None:
    rate = MetricShare(name="disk.writes", share=1.0, actual=900.0, expected=10.0, spread=20.0, recent=(0.0, 5.0, None, 900.0))
    assert metric_line(rate).usual == "usually up to 70"
    signed = MetricShare(name="offset", share=1.0, actual=900.0, expected=10.0, spread=20.0, recent=(-1.0, 5.0, 900.0))
    assert metric_line(signed).usual == "usually -50 to 70"
