"""The message about an alert: title, sentence, metrics. Pure; every receiver type shows the same text.

Written for a reader who was woken by it: what, since when, how unusual, and what to do next.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from service.alerts.messages.circumstances import PLAIN, Circumstances
from service.alerts.messages.facts import Command, Fact, commands_of, facts_of
from service.alerts.messages.moments import how_often, moment
from service.alerts.messages.numbers import sparkline, two_figures
from service.alerts.messages.units import unit_of, with_unit
from service.alerts.times import span_words
from service.domain import Alert, MemberScore, MetricShare, Status

METRICS_SHOWN = 5
TITLE_LIMIT = 60  # what fits on a locked phone
LEAST_NAME = 8  # characters of an entity or a metric in a title
BAND = 3.0  # robust standard deviations either side of the centre: what is usual

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
    since: str  #: when the alert began, in ``notifications.time_zone`` with UTC beside it
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
    facts: tuple[Fact, ...]  #: everything else there is to say, in order: each has ``label``, ``text`` and ``matters``
    commands: tuple[Command, ...]  #: what can be done: each has ``label`` and ``line``


def compose(alert: Alert, circumstances: Circumstances = PLAIN, history_url: str | None = None) -> Message:
    """The message about one alert. ``history_url`` may hold ``{alert_id}``."""
    labels = ", ".join(f"{key}={value}" for key, value in sorted(alert.labels.items()))
    missing = _missing(alert.members)
    return Message(
        title=title(alert, circumstances),
        sentence=sentence(alert, circumstances.zone),
        status="resolved" if alert.status is Status.RESOLVED else str(alert.status),
        severity=str(alert.peak_severity if alert.status is Status.RESOLVED else alert.severity),
        entity=alert.entity,
        since=moment(alert.started_at, circumstances.zone),
        unusual=how_unusual(alert.peak_p) if alert.kind == "anomaly" else "",
        one_in=one_in(alert.peak_p) if alert.kind == "anomaly" else "",
        metrics=tuple(metric_line(metric, circumstances.units) for metric in leading(alert.metrics)[:METRICS_SHOWN]),
        voted=_voted(alert.members),
        missing=missing,
        labels=labels,
        alert_id=alert.alert_id,
        seq=alert.seq,
        reason=alert.reason,
        history_url=history_url.replace("{alert_id}", alert.alert_id) if history_url else None,
        stands_out="What stood out at its worst" if alert.status is Status.RESOLVED else "What stands out",
        more=f"tidewatch alerts show {alert.alert_id[:12]}",
        runbook=circumstances.runbook,
        owner=circumstances.owner,
        facts=facts_of(alert, circumstances, missing=missing, labels=labels),
        commands=commands_of(alert),
    )


def title(alert: Alert, circumstances: Circumstances = PLAIN) -> str:
    """The subject line: ``[CRITICAL] db-7: cpu 97 instead of about 40``, ``[RESOLVED] db-7 is back to normal``; of an anomaly at
    most ``TITLE_LIMIT`` characters, so that a phone shows what, where and how much."""
    if alert.kind == "data_health":
        return f"[{'RESOLVED' if alert.status is Status.RESOLVED else alert.severity.upper()}] {alert.entity}: {alert.reason}"
    if alert.status is Status.RESOLVED:
        return f"[RESOLVED] {alert.entity}: {alert.reason if 'accepted' in alert.reason else 'back to normal'}"
    head = f"[{alert.severity.upper()}] "
    if not alert.metrics:
        return f"{head}{_fitting(alert.entity, TITLE_LIMIT - len(head) - 19)}: unusual behaviour"
    top = alert.also[-1] if alert.action == "widened" and alert.also else leading(alert.metrics)[0]
    also = "now also " if alert.action == "widened" and alert.also else ""
    seen = _seen(top, circumstances.units)
    if len(f"{head}{alert.entity}: {also}{top.name} {seen}") > TITLE_LIMIT:
        seen = seen.replace(" instead of about ", ", not ")
    room = TITLE_LIMIT - len(f"{head}: {also} {seen}")
    if room < 2 * LEAST_NAME:  # the names matter more than what was expected
        seen = seen.split(", not ")[0]
        room = TITLE_LIMIT - len(f"{head}: {also} {seen}")
    if len(alert.entity) + len(top.name) <= room:
        return f"{head}{alert.entity}: {also}{top.name} {seen}"
    where = _fitting(alert.entity, max(room - min(len(top.name), room // 2), LEAST_NAME))
    return f"{head}{where}: {also}{_fitting(top.name, max(room - len(where), LEAST_NAME))} {seen}"


def _fitting(name: str, room: int) -> str:
    """A name in so many characters: of one that is too long, both ends, which tell it from its neighbours."""
    if len(name) <= room:
        return name
    tail = (room - 1) // 2
    return f"{name[: room - 1 - tail]}…{name[-tail:] if tail else ''}"


def leading(metrics: Sequence[MetricShare]) -> Sequence[MetricShare]:
    """The metrics that a message names: not those that lie within what is usual, unless all of them do (then the first)."""
    return [metric for metric in metrics if not _is_usual(metric)] or list(metrics[:1])


def _is_usual(metric: MetricShare) -> bool:
    return metric.deviation is not None and metric.deviation <= BAND


def sentence(alert: Alert, zone: str = "UTC") -> str:
    """One readable sentence: what, since when, how unusual, which metrics."""
    if alert.kind == "data_health":
        return data_sentence(alert, zone)
    if alert.status is Status.RESOLVED:
        lasted = (alert.ended_at or alert.updated_at) - alert.started_at
        unsent = "" if alert.fired_at is not None else ", and too briefly to tell anyone"
        return (
            f"{alert.entity} was unusual for {span_words(lasted, 'long')} from {moment(alert.started_at, zone)} "
            f"({alert.peak_severity} at its worst{unsent}); closed: {alert.reason}."
        )
    verb = "may be" if alert.status is Status.PENDING else "is"
    mainly = f", mainly {listed([metric.name for metric in leading(alert.metrics)[:3]])}" if alert.metrics else ""
    often = how_often(alert.every_days) if alert.every_days > 0 else one_in(alert.peak_p)
    return (
        f"{alert.entity} {verb} behaving unusually since {moment(alert.started_at, zone)}{mainly}: "
        f"{how_unusual(alert.peak_p)}, {often} in normal operation."
    )


def data_sentence(alert: Alert, zone: str = "UTC") -> str:
    """About an alert of the kind ``data_health``: which data, since when, why, and what to do next."""
    since = f"since {moment(alert.started_at, zone)}"
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


def metric_line(metric: MetricShare, units: Sequence[tuple[str, str]] = ()) -> MetricLine:
    """One metric in words with its unit, and a sparkline of its newest rows."""
    unit, usual = unit_of(metric.name, units), ""
    if band := usual_band(metric):
        low, high = (with_unit(edge, unit, metric.spread) for edge in band)
        usual = f"usually up to {high}" if band[0] == 0.0 else f"usually {low} to {high}"
    seen = _seen(metric, units)
    return MetricLine(
        name=metric.name,
        share=f"{metric.share:.0%}",
        actual=with_unit(metric.actual, unit, metric.spread),
        expected=with_unit(metric.expected, unit, metric.spread),
        usual=usual,
        spark=sparkline(metric.recent),
        words=f"{metric.name} {seen}" + (f" ({usual})" if usual else ""),
    )


def usual_band(metric: MetricShare) -> tuple[float, float] | None:
    """The range of normal values; of a count or a rate, which was never seen below zero, from zero on. ``None``: not known."""
    if metric.expected is None or metric.spread is None or not metric.spread > 0:
        return None
    low, high = metric.expected - BAND * metric.spread, metric.expected + BAND * metric.spread
    if not math.isfinite(high - low):
        return None
    least = min([metric.expected, *(value for value in metric.recent if value is not None)])
    return (max(low, 0.0) if least >= 0 else low), high


def _seen(metric: MetricShare, units: Sequence[tuple[str, str]] = ()) -> str:
    unit = unit_of(metric.name, units)
    actual, expected = (with_unit(value, unit, metric.spread) for value in (metric.actual, metric.expected))
    return actual if metric.expected is None else f"{actual} instead of about {expected}"


def listed(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _voted(members: Sequence[MemberScore]) -> str:
    votes = [f"{m.name} ({one_in(m.p)})" for m in members if m.state == "ok" and m.p is not None]
    return ", ".join(votes)


def _missing(members: Sequence[MemberScore]) -> str:
    return ", ".join(f"{m.name} ({m.state}{': ' + m.reason if m.reason else ''})" for m in members if m.state != "ok")
