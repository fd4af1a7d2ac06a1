"""A message about several alerts: their order, its subject and its opening sentence. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from service.alerts.messages.message import moment, title
from service.domain import Alert, Severity, Status


def rank_first(alerts: Sequence[Alert]) -> list[Alert]:
    """Most severe first, firing before resolved, then by start."""
    return sorted(alerts, key=lambda a: (a.status is Status.RESOLVED, -Severity(a.severity).rank, a.started_at, a.entity))


def summary_title(alerts: Sequence[Alert]) -> str:
    """The subject of a message about many: ``[CRITICAL] 50 alerts firing on 50 entities, 2 resolved``."""
    if len(alerts) == 1:
        return title(alerts[0])
    firing = [alert for alert in alerts if alert.status is not Status.RESOLVED]
    resolved = len(alerts) - len(firing)
    if not firing:
        return f"[RESOLVED] {resolved:,} alerts are over on {_on(alerts)}"
    worst = max(firing, key=lambda alert: alert.severity.rank).severity
    over = f", {resolved:,} resolved" if resolved else ""
    return f"[{worst.upper()}] {len(firing):,} alert{'' if len(firing) == 1 else 's'} firing on {_on(firing)}{over}"


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
