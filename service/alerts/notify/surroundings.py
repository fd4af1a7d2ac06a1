"""Who else is unusual: the alerts that are open, which of them began together, and what these have in common. Pure."""

from __future__ import annotations

import bisect
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence

import msgspec

from service.alerts.messages.circumstances import NEARBY_MS, NEIGHBOURS_SHOWN, Neighbour
from service.domain import Alert, Severity, Status

PENDING_NEARBY_MS = 5 * 60_000  # most alerts that did not fire yet come to nothing: they count only when they began this close
MOST_OPEN = 50_000
MOST_COMPARED = 1_000  # alerts that began together, the first of them; the others are only counted
MOST_ENTITIES = 10_000  # whose labels are remembered, to tell a rack from a label that everything has
LABELS_KEPT = 8  # of a neighbour, so that the record of a message stays small


class Surroundings(msgspec.Struct, frozen=True):
    """Who else is unusual: ``Circumstances`` describes the fields."""

    neighbours: tuple[Neighbour, ...] = ()
    neighbours_total: int = 0
    shared: str = ""


class _Open(msgspec.Struct, frozen=True):
    """What matters here of an open alert."""

    entity: str
    started_at: int
    fired: bool
    severity: Severity
    top_metric: str
    labels: Mapping[str, str]


class OpenAlerts:
    """The newest state of every open alert about an entity. Bounded."""

    def __init__(self) -> None:
        self._open: dict[str, _Open] = {}
        self._labels: OrderedDict[str, Mapping[str, str]] = OrderedDict()  # by entity, the newest last

    def observe(self, alert: Alert) -> None:
        """Take one transition in."""
        if alert.kind == "data_health" and alert.entity == alert.topic:
            return  # about the metrics topic
        if alert.labels and alert.kind == "anomaly":
            self._labels[alert.entity] = alert.labels
            self._labels.move_to_end(alert.entity)
            if len(self._labels) > MOST_ENTITIES:
                self._labels.popitem(last=False)
        if alert.status is Status.RESOLVED:
            self._open.pop(alert.alert_id, None)
        elif alert.alert_id in self._open or len(self._open) < MOST_OPEN:
            top = alert.metrics[0].name if alert.metrics else ""
            self._open[alert.alert_id] = _Open(
                alert.entity, alert.started_at, alert.fired_at is not None, alert.severity, top, alert.labels
            )

    def clear(self) -> None:
        """Another process follows the alerts from now on."""
        self._open.clear()

    def around(self, alerts: Sequence[Alert]) -> dict[str, Surroundings]:
        """Who else is unusual, for each of these alerts by its id."""
        ordered = sorted(self._open.values(), key=lambda each: (each.started_at, each.entity))
        starts = [each.started_at for each in ordered]
        everyone = Counter(item for labels in self._labels.values() for item in labels.items())
        found = {}
        for alert in alerts:
            begin = bisect.bisect_left(starts, alert.started_at - NEARBY_MS)
            end = bisect.bisect_right(starts, alert.started_at + NEARBY_MS)
            compared = ordered[begin : min(end, begin + MOST_COMPARED)]
            near: dict[str, _Open] = {}
            for each in compared:
                if _counts(each, alert):
                    near.setdefault(each.entity, each)  # of an entity the earliest
            unusual = [alert.labels, *(each.labels for each in near.values())]
            shared = explanation(unusual, everyone, len(self._labels))
            total = len(near) + end - begin - len(compared)
            found[alert.alert_id] = Surroundings(tuple(map(_neighbour, [*near.values()][:NEIGHBOURS_SHOWN])), total, shared)
        return found


def _neighbour(each: _Open) -> Neighbour:
    labels = dict(sorted(each.labels.items())[:LABELS_KEPT])
    return Neighbour(each.entity, each.started_at, each.severity, each.top_metric, labels)


def _counts(other: _Open, alert: Alert) -> bool:
    apart = abs(other.started_at - alert.started_at)
    return other.entity != alert.entity and apart <= (NEARBY_MS if other.fired else PENDING_NEARBY_MS)


def explanation(unusual: Sequence[Mapping[str, str]], everyone: Mapping[tuple[str, str], int], entities: int) -> str:
    """The label values that explain best which entities are unusual: ``rack=r2: 3 of 3 hosts``; empty when none does.

    ``unusual``: the labels of the entities that are unusual now, first that of the alert in question. ``everyone``: how many of the
    ``entities`` that ever had an alert have each label value. A value explains when the first and at least one other have it, half
    of the unusual ones, and not as many of all. Values that explain equally well are named together. "Of 3 hosts": of the unusual.
    """
    if len(unusual) < 2:
        return ""
    rated: dict[tuple[str, str], tuple[float, int]] = {}
    for item in unusual[0].items():
        hits = sum(labels.get(item[0]) == item[1] for labels in unusual)
        here, anywhere = hits / len(unusual), max(everyone.get(item, 0), hits)
        common = entities > len(unusual) and here <= anywhere / entities
        if hits < 2 or here < 0.5 or common:
            continue
        rated[item] = (2 * here * (hits / anywhere) / (here + hits / anywhere), hits)
    if not rated:
        return ""
    best = max(rated.values())
    names = sorted(f"{name}={value}" for (name, value), each in rated.items() if each == best)
    return f"{', '.join(names[:3])}: {best[1]} of {len(unusual)} hosts"
