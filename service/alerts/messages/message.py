"""The message about an alert: title, sentence, metrics. Pure; every receiver type shows the same text.

Written for a reader who was woken by it: what, since when, how unusual, and what to do next.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from service.alerts.messages.circumstances import PLAIN, Circumstances
from service.alerts.messages.numbers import decimals, fixed, number, sparkline, two_figures
from service.alerts.times import span_words
from service.domain import Alert, MemberScore, MetricShare, Status

METRICS_SHOWN = 5

# What to do next, by data-health check.
_ADVICE = {
    "lag": "Look whether the scoring workers run, and add some if they cannot keep up (tidewatch run --workers).",
    "rejected": "See which and why: tidewatch dead-letter list.",
    "quiet": "Look whether the producers run and reach Kafka.",
    "silent": "Look whether it runs, and whether what sends its metrics runs and reaches Kafka.",
    "still": "Look at what measures it: something that hangs often sends its last value over and over.",
    "empty": "Look at what measures it: the metric is missing, or has another name now.",
    "late": "Look at the producers' clocks and at what delays them, or allow more: stream.allowed_lateness_seconds.",
    "model": "What was normal then may not be so now: train it again (tidewatch train).",
}


class MetricLine(msgspec.Struct, frozen=True):
    """One metric's part: ``cpu  97 instead of about 40 (usually 36 to 44)`` in pieces."""

    name: str  #: the metric's name
    share: str  #: its share of the anomaly
    actual: str  #: the newest value
    expected: str  #: the value that was to be expected
    usual: str  #: the range of normal values; empty when it is not known
    spark: str  #: the newest values as a sparkline
    words: str  #: name, newest value, expected value and usual range in words


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """All text about one alert, rounded and without markup; templates see these names. ``unusual`` and ``one_in`` are empty for an
    alert about the data."""

    title: str  #: the subject line
    sentence: str  #: one sentence: what, since when, how unusual, which metrics
    status: str  #: ``pending``, ``firing`` or ``resolved``
    severity: str  #: ``info``, ``warning`` or ``critical``; of a resolved alert the highest it had
    entity: str  #: the entity, or the metrics topic
    since: str  #: when the alert began, UTC
    unusual: str  #: the rarity in words; empty for alerts about the data
    one_in: str  #: the rarity as a frequency; empty for alerts about the data
    metrics: tuple[MetricLine, ...]  #: the metrics that stand out most, five at most
    voted: str  #: the detectors and what each says
    missing: str  #: detectors without a score, with the reason; empty when there are none
    labels: str  #: the entity's labels
    alert_id: str  #: the id of the alert, 32 hex digits
    seq: int  #: the number of the transition, from 1
    reason: str  #: why the alert changed
    history_url: str | None  #: ``notifications.history_url`` for this alert; none when it is not set
    stands_out: str  #: a heading for the metrics
    more: str  #: the command that shows the alert
    runbook: str  #: where what to do is written (``notifications.links``); empty when nothing matches
    owner: str  #: who looks after it (``notifications.links``); empty when nothing matches


def compose(alert: Alert, circumstances: Circumstances = PLAIN, history_url: str | None = None) -> Message:
    """The message about one alert. ``history_url`` may hold ``{alert_id}``."""
    return Message(
        title=title(alert),
        sentence=sentence(alert),
        status="resolved" if alert.status is Status.RESOLVED else str(alert.status),
        severity=str(alert.peak_severity if alert.status is Status.RESOLVED else alert.severity),
        entity=alert.entity,
        since=moment(alert.started_at),
        unusual=how_unusual(alert.peak_p) if alert.kind == "anomaly" else "",
        one_in=one_in(alert.peak_p) if alert.kind == "anomaly" else "",
        metrics=tuple(metric_line(metric) for metric in alert.metrics[:METRICS_SHOWN]),
        voted=_voted(alert.members),
        missing=_missing(alert.members),
        labels=", ".join(f"{key}={value}" for key, value in sorted(alert.labels.items())),
        alert_id=alert.alert_id,
        seq=alert.seq,
        reason=alert.reason,
        history_url=history_url.replace("{alert_id}", alert.alert_id) if history_url else None,
        stands_out="What stood out at its worst" if alert.status is Status.RESOLVED else "What stands out",
        more=f"tidewatch alerts show {alert.alert_id[:12]}",
        runbook=circumstances.runbook,
        owner=circumstances.owner,
    )


def title(alert: Alert) -> str:
    """The subject line: ``[CRITICAL] db-7: cpu 97 instead of about 40``, ``[RESOLVED] db-7 is back to normal``."""
    if alert.kind == "data_health":
        return f"[{'RESOLVED' if alert.status is Status.RESOLVED else alert.severity.upper()}] {alert.entity}: {alert.reason}"
    if alert.status is Status.RESOLVED:
        return f"[RESOLVED] {alert.entity}: {alert.reason if 'accepted' in alert.reason else 'back to normal'}"
    top = alert.metrics[0] if alert.metrics else None
    what = f"{top.name} {_seen(top)}" if top else "unusual behaviour"
    return f"[{alert.severity.upper()}] {alert.entity}: {what}"


def sentence(alert: Alert) -> str:
    """One readable sentence: what, since when, how unusual, which metrics."""
    if alert.kind == "data_health":
        return data_sentence(alert)
    if alert.status is Status.RESOLVED:
        lasted = (alert.ended_at or alert.updated_at) - alert.started_at
        unsent = "" if alert.fired_at is not None else ", and too briefly to tell anyone"
        return (
            f"{alert.entity} was unusual for {span_words(lasted, 'long')} from {moment(alert.started_at)} "
            f"({alert.peak_severity} at its worst{unsent}); closed: {alert.reason}."
        )
    verb = "may be" if alert.status is Status.PENDING else "is"
    mainly = f", mainly {listed([metric.name for metric in alert.metrics[:3]])}" if alert.metrics else ""
    return (
        f"{alert.entity} {verb} behaving unusually since {moment(alert.started_at)}{mainly}: "
        f"{how_unusual(alert.peak_p)}, {one_in(alert.peak_p)} in normal operation."
    )


def data_sentence(alert: Alert) -> str:
    """About an alert of the kind ``data_health``: which data, since when, why, and what to do next."""
    since = f"since {moment(alert.started_at)}"
    if alert.acknowledged_by is not None and alert.action == "acknowledged":
        return f"The data of {alert.entity} are not well {since}; {alert.reason}."
    if alert.status is not Status.RESOLVED:
        advice = _ADVICE.get(alert.labels.get("check", ""), "")
        return f"The data of {alert.entity} are not well {since}: {alert.reason}. {advice}".rstrip()
    if alert.reason.startswith("no longer"):
        return f"The data of {alert.entity}, not well {since}, are {alert.reason}."
    return f"The data of {alert.entity} are well again, not so {since}: {alert.reason}."


def how_unusual(p: float) -> str:
    """A tail probability in words."""
    for bound, words in ((1e-5, "extremely unusual"), (1e-4, "very unusual"), (1e-2, "unusual")):
        if p <= bound:
            return words
    return "slightly unusual"


def one_in(p: float) -> str:
    """``about one window in 40,000``: a probability people can picture, to two significant figures."""
    if not p > 0:
        return "never seen"
    if p < 1e-12:
        return "less than one window in 1,000,000,000,000"
    return f"about one window in {two_figures(1 / min(p, 1.0)):,}"


def metric_line(metric: MetricShare) -> MetricLine:
    """One metric in words, with a sparkline of its newest rows."""
    usual = ""
    if (
        metric.expected is not None
        and metric.spread is not None
        and metric.spread > 0
        and math.isfinite(metric.expected + metric.spread)
    ):
        low, high = metric.expected - 3 * metric.spread, metric.expected + 3 * metric.spread
        digits = decimals(metric.spread)
        if low < 0 <= min([metric.expected, *(value for value in metric.recent if value is not None)]):
            usual = f"usually up to {fixed(high, digits)}"  # a count or a rate, which was never seen below zero
        else:
            usual = f"usually {fixed(low, digits)} to {fixed(high, digits)}"
    seen = _seen(metric)
    return MetricLine(
        name=metric.name,
        share=f"{metric.share:.0%}",
        actual=number(metric.actual, metric.spread),
        expected=number(metric.expected, metric.spread),
        usual=usual,
        spark=sparkline(metric.recent),
        words=f"{metric.name} {seen}" + (f" ({usual})" if usual else ""),
    )


def moment(milliseconds: int) -> str:
    """``2026-11-22 03:04:05 UTC``."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _seen(metric: MetricShare) -> str:
    actual, expected = number(metric.actual, metric.spread), number(metric.expected, metric.spread)
    return actual if metric.expected is None else f"{actual} instead of about {expected}"


def listed(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _voted(members: Sequence[MemberScore]) -> str:
    votes = [f"{m.name} ({one_in(m.p)})" for m in members if m.state == "ok" and m.p is not None]
    return ", ".join(votes)


def _missing(members: Sequence[MemberScore]) -> str:
    return ", ".join(f"{m.name} ({m.state}{': ' + m.reason if m.reason else ''})" for m in members if m.state != "ok")
