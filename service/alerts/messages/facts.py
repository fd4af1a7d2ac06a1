"""What a message says below its metrics, in order, each only where there is something to say. Pure; all channels show the same.

The list is what on-call guides ask of a page: how sure, what is missing, what changed, who else, when last, whom to ask, what
happens next, and which model said so.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from service.alerts.messages.circumstances import Circumstances, Earlier, Neighbour
from service.alerts.messages.moments import how_often, moment
from service.alerts.times import span_words
from service.domain import Alert, Status

NEIGHBOURS_NAMED = 5
NOTE_LIMIT = 200
LIVE_MS = 86_400_000


class Fact(msgspec.Struct, frozen=True):
    """One line: ``Since: 2026-11-22 03:04:05 UTC, for 12 min``."""

    label: str  #: what it is about
    text: str  #: what there is to say
    matters: bool = False  #: shown in bold: something is missing, or changed


class Command(msgspec.Struct, frozen=True):
    """Something to do: ``Silence: tidewatch silence add alert=3f9c1a… --for 2h``."""

    label: str  #: what it does
    line: str  #: the command to paste


def facts_of(alert: Alert, known: Circumstances, *, missing: str, labels: str) -> tuple[Fact, ...]:
    """The lines of one alert. ``missing``: detectors without a score; ``labels``: in words."""
    return tuple(fact for fact in _facts(alert, known, missing, labels) if fact.text)


def commands_of(alert: Alert) -> tuple[Command, ...]:
    """What can be done about it, as commands to paste."""
    short = alert.alert_id[:12]
    show = Command("Show", f"tidewatch alerts show {short}")
    if alert.kind == "data_health":
        return (show,)
    judge = (
        Command("False alarm", f"tidewatch alerts mark {short} false --suppress"),
        Command("Real", f"tidewatch alerts mark {short} true"),
    )
    if alert.status is Status.RESOLVED:
        return (show, *judge)
    take = Command("Take", f"tidewatch alerts ack {short}")
    silence = Command("Silence", f"tidewatch silence add alert={alert.alert_id} --for 2h")
    return (show, silence, *judge) if alert.acknowledged_by is not None else (take, show, silence, *judge)


def _facts(alert: Alert, known: Circumstances, missing: str, labels: str) -> Iterator[Fact]:
    yield Fact("Since", _since(alert, known))
    yield Fact("Now", _change(alert, known), matters=True)
    yield Fact("Now also", ", ".join(metric.name for metric in alert.also), matters=True)
    yield Fact("How sure", how_sure(alert))
    yield Fact("Missing", f"no score from {missing}" if missing else "", matters=True)
    yield Fact("Who else", who_else(alert, known))
    yield Fact("Last time", last_time(known.earlier, known.earlier_count, _now(alert, known), known.zone))
    yield Fact("Taken by", "" if alert.acknowledged_by is None else alert.acknowledged_by)
    yield Fact("Runbook", known.runbook)
    yield Fact("Owner", known.owner)
    yield Fact("Next", _next(alert, known))
    yield Fact("Labels", labels)
    yield Fact("Model", _model(alert, known))


def _now(alert: Alert, known: Circumstances) -> int:
    # No open alert is without a transition for a day (``alerts.max_episode_seconds``): where one is, old data are being read, and
    # their time counts.
    return known.now_ms if 0 < known.now_ms - alert.updated_at <= LIVE_MS else alert.updated_at


def _since(alert: Alert, known: Circumstances) -> str:
    began = moment(alert.started_at, known.zone)
    if alert.status is Status.RESOLVED:
        ended = alert.ended_at or alert.updated_at
        return f"{began}, until {moment(ended, known.zone)}: {span_words(ended - alert.started_at, 'long')}"
    return f"{began}, for {span_words(_now(alert, known) - alert.started_at, 'long')}"


def _change(alert: Alert, known: Circumstances) -> str:
    if alert.status is Status.RESOLVED:
        return f"over: {alert.reason}"
    before = known.notified_severity
    if before is None:
        return ""
    if alert.severity.rank > before.rank:
        return f"worse: {before} to {alert.severity}"
    if alert.severity.rank < before.rank:
        return f"better: {before} to {alert.severity}"
    return "still going on, a reminder" if known.is_reminder else ""


def how_sure(alert: Alert) -> str:
    """How often normal operation has something like it, in time; empty for an alert about the data."""
    if alert.kind != "anomaly" or alert.every_days <= 0:
        return ""
    sure = f"normal operation of {alert.entity} has this {how_often(alert.every_days)}"
    if alert.calibrated_days > 0:
        sure += f", or less often; learned from {alert.calibrated_days:,.2g} days"
    return sure


def who_else(alert: Alert, known: Circumstances) -> str:
    """Other entities at the same time, first onset first: ``rack=r2: 3 of 3 hosts; db-2 12 s before (cpu)``."""
    if not known.neighbours:
        return ""
    shown = [_neighbour(each, alert) for each in known.neighbours[:NEIGHBOURS_NAMED]]
    left = max(known.neighbours_total, len(known.neighbours)) - len(shown)
    more = f" and {left:,} more" if left > 0 else ""
    return f"{known.shared + '; ' if known.shared else ''}{', '.join(shown)}{more}"


def _neighbour(each: Neighbour, alert: Alert) -> str:
    apart = each.started_at - alert.started_at
    when = "at the same time" if abs(apart) < 1000 else f"{span_words(abs(apart))} {'later' if apart > 0 else 'before'}"
    return f"{each.entity} {when}" + (f" ({each.top_metric})" if each.top_metric else "")


def last_time(earlier: Earlier | None, count: int, now_ms: int, zone: str) -> str:
    """When something like it happened before, how it ended, and what was noted then."""
    if earlier is None:
        return ""
    ago = span_words(max(0, now_ms - earlier.started_at))
    words = [f"{ago} ago ({moment(earlier.started_at, zone)}), {earlier.severity}"]
    if earlier.ended_at is not None:
        words.append(f"lasted {span_words(earlier.ended_at - earlier.started_at)}")
    if earlier.mark:
        words.append(f"marked as {'a ' if earlier.mark.startswith('false') else ''}{earlier.mark}")
    if earlier.note:
        note = earlier.note if len(earlier.note) <= NOTE_LIMIT else earlier.note[: NOTE_LIMIT - 1] + "…"
        words.append(f"noted “{note}”" + (f" by {earlier.author}" if earlier.author else ""))
    if count > 1:
        words.append(f"{count:,} times in 30 days")
    return f"{', '.join(words)}; tidewatch alerts show {earlier.alert_id[:12]}"


def _next(alert: Alert, known: Circumstances) -> str:
    if alert.status is Status.RESOLVED:
        return ""
    parts = []
    if known.repeat_after_s:
        parts.append(f"a reminder in {span_words(round(known.repeat_after_s * 1000))} if it goes on")
    if known.resolve_after_s:
        parts.append(f"resolved once it is quiet for {span_words(round(known.resolve_after_s * 1000))}")
    return ", ".join(parts)


def _model(alert: Alert, known: Circumstances) -> str:
    if alert.kind != "anomaly" or not alert.bundle:
        return ""
    version = f" {alert.bundle_version}" if alert.bundle_version else ""
    age = _now(alert, known) - alert.model_trained_at
    if not alert.model_trained_at or age < 0:  # old data are being read
        return f"{alert.bundle}{version}"
    return f"{alert.bundle}{version}, trained {span_words(age)} ago"
