"""Who else is unusual: the alerts that are open, which of them began together, and what these have in common. Pure."""

from __future__ import annotations

import bisect
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence

import msgspec

from service.alerts.messages.circumstances import NEARBY_MS, NEIGHBOURS_SHOWN, Neighbour
from service.domain import Alert, HealthReport, Severity, Status

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


class Population(msgspec.Struct, frozen=True):
    """How many ``entities`` there are, and how many have each (label, value). ``whole``: of all that send, as the scoring processes
    report; otherwise of those that had an alert here."""

    counts: Mapping[tuple[str, str], int]
    entities: int
    whole: bool


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
        self._reports: dict[int, tuple[int, Mapping[str, Mapping[str, int]]]] = {}  # entities and population, by partition
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

    def take_in(self, reports: Mapping[int, HealthReport]) -> None:
        """The newest reports of the scoring processes, by partition; one without a new report is as it was."""
        self._reports |= {at: (each.entities, each.population) for at, each in reports.items()}

    def clear(self) -> None:
        """Another process follows the alerts from now on."""
        self._open.clear()

    def around(self, alerts: Sequence[Alert]) -> dict[str, Surroundings]:
        """Who else is unusual, for each of these alerts by its id."""
        ordered = sorted(self._open.values(), key=lambda each: (each.started_at, each.entity))
        starts = [each.started_at for each in ordered]
        population = self._population()
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
            shared = explanation(unusual, population)
            total = len(near) + end - begin - len(compared)
            found[alert.alert_id] = Surroundings(tuple(map(_neighbour, [*near.values()][:NEIGHBOURS_SHOWN])), total, shared)
        return found

    def _population(self) -> Population:
        if not any(entities for entities, _ in self._reports.values()):
            everyone = Counter(item for labels in self._labels.values() for item in labels.items())
            return Population(everyone, len(self._labels), whole=False)
        counts: Counter[tuple[str, str]] = Counter()
        for _, population in self._reports.values():
            for name, values in population.items():
                counts.update({(name, value): count for value, count in values.items()})
        return Population(counts, sum(entities for entities, _ in self._reports.values()), whole=True)


def _neighbour(each: _Open) -> Neighbour:
    labels = dict(sorted(each.labels.items())[:LABELS_KEPT])
    return Neighbour(each.entity, each.started_at, each.severity, each.top_metric, labels)


def _counts(other: _Open, alert: Alert) -> bool:
    apart = abs(other.started_at - alert.started_at)
    return other.entity != alert.entity and apart <= (NEARBY_MS if other.fired else PENDING_NEARBY_MS)


def explanation(unusual: Sequence[Mapping[str, str]], population: Population) -> str:
    """The label values that explain best which entities are unusual: ``rack=r2: 3 of 3 hosts``; empty when none does.

    ``unusual``: the labels of the entities that are unusual now, first that of the alert in question. A value explains when the
    first and at least one other have it, half of the unusual ones, and not as many of all. Values that explain equally well are
    named together. "3 of 3 hosts": of all that have the value; where that is not known, of the unusual ones, and it says so.
    """
    rated: dict[tuple[str, str], tuple[float, int, int]] = {}
    for item in unusual[0].items() if len(unusual) > 1 else ():
        hits = sum(labels.get(item[0]) == item[1] for labels in unusual)
        here, anywhere = hits / len(unusual), max(population.counts.get(item, 0), hits)
        common = population.entities > len(unusual) and here <= anywhere / population.entities
        if hits < 2 or here < 0.5 or common or (population.whole and item not in population.counts):
            continue
        rated[item] = (2 * here * (hits / anywhere) / (here + hits / anywhere), hits, anywhere)
    if not rated:
        return ""
    best = max(rated.values())
    names = ", ".join(sorted(f"{name}={value}" for (name, value), each in rated.items() if each == best)[:3])
    return f"{names}: {best[1]} of {best[2]} hosts" if population.whole else f"{names}: {best[1]} of {len(unusual)} unusual hosts"
