"""A message about several alerts: their order, its subject and its opening sentence. Pure.

What the receiver does not know yet comes first: a new fault in a group of old ones must not be the last line of
"5 alerts firing on 4 entities".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from service.alerts.messages.circumstances import NOTHING_KNOWN, PLAIN, ByAlert
from service.alerts.messages.message import sentence, title
from service.alerts.messages.moments import moment
from service.domain import Alert, Severity, Status

NAMED = 3  # of so many new alerts the first is named; more are counted
NEW, CHANGED, OLD, OVER = range(4)  # to this receiver, in the order in which they are shown


def news_of(alert: Alert, circumstances: ByAlert = NOTHING_KNOWN) -> int:
    """What the receiver knows of this alert: ``NEW``, ``CHANGED`` (more severe, or other metrics joined), ``OLD`` or ``OVER``."""
    if alert.status is Status.RESOLVED:
        return OVER
    known = circumstances.get(alert.alert_id, PLAIN)
    if known.notified_severity is None:
        return NEW
    return CHANGED if known.changed else OLD


def rank_first(alerts: Sequence[Alert], circumstances: ByAlert = NOTHING_KNOWN) -> list[Alert]:
    """What is new to the receiver first, then what changed, what it knows, and what resolved; among these the most severe first,
    then by start."""
    return sorted(alerts, key=lambda a: (news_of(a, circumstances), -Severity(a.severity).rank, a.started_at, a.entity))


def summary_title(alerts: Sequence[Alert], circumstances: ByAlert = NOTHING_KNOWN) -> str:
    """The subject of a message about many: ``[CRITICAL] 50 alerts firing on 50 entities, 2 resolved``. A new fault, or one that
    changed, in a group of old ones names itself: ``[CRITICAL] db-7: cpu 97 instead of about 40; 4 older alerts still firing``."""
    if len(alerts) == 1:
        return _title(alerts[0], circumstances)
    ordered = rank_first(alerts, circumstances)
    kinds = Counter(news_of(alert, circumstances) for alert in ordered)
    firing = [alert for alert in ordered if alert.status is not Status.RESOLVED]
    resolved = kinds[OVER]
    if not firing:
        return f"[RESOLVED] {resolved:,} alerts are over on {_on(alerts)}"
    over = f", {resolved:,} resolved" if resolved else ""
    older = f"; {kinds[OLD]:,} older alert{'' if kinds[OLD] == 1 else 's'} still firing" if kinds[OLD] else ""
    if names_itself(ordered, circumstances):
        more = [f"{count:,} more {word}" for count, word in _others(kinds)]
        return f"{', '.join([_title(ordered[0], circumstances), *more])}{older}{over}"
    told = [alert for alert in firing if news_of(alert, circumstances) != OLD]
    shown, what, older = (
        (told, "new or worse alert" if kinds[CHANGED] else "new alert", older) if told and older else (firing, "alert", "")
    )
    worst = max(shown, key=lambda alert: alert.severity.rank).severity
    still = "firing" if told else "still firing"
    return f"[{worst.upper()}] {len(shown):,} {what}{'' if len(shown) == 1 else 's'} {still} on {_on(shown)}{older}{over}"


def names_itself(alerts: Sequence[Alert], circumstances: ByAlert = NOTHING_KNOWN) -> bool:
    """Whether the message tells a little that is new beside alerts that the receiver knows already."""
    kinds = Counter(news_of(alert, circumstances) for alert in alerts)
    return bool(kinds[OLD]) and 0 < kinds[NEW] + kinds[CHANGED] <= NAMED


def opening(alerts: Sequence[Alert], circumstances: ByAlert = NOTHING_KNOWN) -> str:
    """The first words of the message: the sentence of the only alert, or of what is new and then of all together."""
    first = rank_first(alerts, circumstances)[0]
    told = sentence(first, circumstances.get(first.alert_id, PLAIN).zone)
    if len(alerts) == 1:
        return told
    together = summary_sentence(alerts)
    if not names_itself(alerts, circumstances):
        return together
    return f"{told} With the older alerts: {together[0].lower()}{together[1:]}"


def _title(alert: Alert, circumstances: ByAlert) -> str:
    return title(alert, circumstances.get(alert.alert_id, PLAIN))


def _others(kinds: Counter[int]) -> list[tuple[int, str]]:
    """How many are new, or changed, beside the one that the title names."""
    first = NEW if kinds[NEW] else CHANGED
    left = [(kinds[kind] - (kind == first), word) for kind, word in ((NEW, "new"), (CHANGED, "changed"))]
    return [(count, word) for count, word in left if count]


def _on(alerts: Sequence[Alert]) -> str:
    """The name of the only entity, or the number of entities."""
    entities = {alert.entity for alert in alerts}
    return next(iter(entities)) if len(entities) == 1 else f"{len(entities):,} entities"


def summary_sentence(alerts: Sequence[Alert]) -> str:
    """One sentence about many alerts: when they began, how severe they are, which metrics they share, which labels."""
    firing = [alert for alert in alerts if alert.status is not Status.RESOLVED] or list(alerts)
    counts = [
        f"{n:,} {severity}" for severity in reversed(Severity) if (n := sum(alert.peak_severity is severity for alert in firing))
    ]
    first, last = min(a.started_at for a in firing), max(a.started_at for a in firing)
    when = f"at {moment(first)}" if last - first < 1000 else f"between {moment(first)} and {moment(last)}"
    tops = Counter(alert.metrics[0].name for alert in firing if alert.metrics)
    mainly = ""
    if tops:
        name, count = tops.most_common(1)[0]
        mainly = f"; {name} stands out most on {count:,} of them"
    shared = set(firing[0].labels.items())
    for alert in firing[1:]:
        shared &= set(alert.labels.items())
    together = f"; all of them have {', '.join(f'{k}={v}' for k, v in sorted(shared))}" if shared else ""
    return f"They began {when}: {', '.join(counts)}{mainly}{together}."
