"""Which entities of a partition are silent, and which metrics are constant or all null: one pass over all slots, in chunks. Pure.

A finding of the former report is kept until it is refuted. A window that begins a new run, or that a restart could not refill,
proves nothing, so an entity stays named until it sends again, its metric varies again, or it expires.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np

from service.domain import I64, HealthItem, HealthItems, HealthReport, Mask
from service.settings import DataHealthSettings
from service.stream.data_health.label_counts import LabelCounts
from service.stream.data_health.stuck_metrics import ALL_NULL, CONSTANT, TOO_FEW, UNKNOWN, stuck_states
from service.stream.models import Model, Models
from service.stream.window_buffers import EMPTY, NEWEST, PARTITION

MAX_NAMED = 100  # of each list
LABEL_BYTES = 200_000  # of all labels in a report, which must fit into one record
CHUNK_SLOTS = 1024  # between two batches: takes 1 ms, or 10 ms where all of 38 metrics are constant

# The lists of a report: their state, and the states that do not refute an item named before.
_STATE_OF = {"still": CONSTANT, "empty": ALL_NULL}
_NOT_REFUTED = {"still": {CONSTANT, UNKNOWN, TOO_FEW}, "empty": {ALL_NULL, UNKNOWN}}


@dataclass
class Tally:
    """How many items of a kind there are, and the oldest of them."""

    count: int = 0
    oldest: list[HealthItem] = field(default_factory=list)

    def add(self, count: int, some: Iterable[HealthItem]) -> None:
        """Add ``count`` items, the oldest of which are ``some``."""
        self.count += count
        self.oldest = sorted([*self.oldest, *some], key=_by_age)[:MAX_NAMED]


def _by_age(one: HealthItem) -> tuple[int, str, str]:
    return one.since, one.entity, one.metric


@dataclass
class Survey:
    """One pass over one partition. ``latest``: the event time (ms) that rows arriving now would have; None: unknown.

    Call ``scan`` for each of ``chunks``, then ``merge``; nothing else may use the windows meanwhile.
    """

    models: Models
    partition: int
    settings: DataHealthSettings
    latest: int | None
    silent: Tally = field(default_factory=Tally)
    still: Tally = field(default_factory=Tally)
    empty: Tally = field(default_factory=Tally)
    population: LabelCounts = field(default_factory=LabelCounts)
    _masks: dict[str, tuple[Mask, Mask]] = field(default_factory=dict)

    def chunks(self) -> Iterator[tuple[Model, int]]:
        """The chunks of all slots, each as a model and its first slot."""
        for model in self.models.all:
            for begin in range(0, len(model.processor.windows.heads), CHUNK_SLOTS):
                yield model, begin

    def scan(self, model: Model, begin: int) -> None:
        """Survey one chunk."""
        windows, interval = model.processor.windows, model.schema.interval_ms
        head = windows.heads[begin : begin + CHUNK_SLOTS]
        slots: I64 = np.flatnonzero((head[:, PARTITION] == self.partition) & (head[:, NEWEST] != EMPTY)) + begin
        for slot in slots.tolist():
            self.population.add(model.processor.labels_of(model.processor.entity_of(slot)))
        newest = windows.heads[slots, NEWEST] * interval
        self._add(self.silent, model, slots, None, newest, newest < self._silent_before(model))
        moves, filled = self._watched(model)
        states, since = stuck_states(windows, slots, moves, filled)
        for tally, state in ((self.still, CONSTANT), (self.empty, ALL_NULL)):
            at, metric = np.nonzero(states == state)
            self._add(tally, model, slots[at], metric, since[at, metric] * interval, np.ones(len(at), np.bool_))

    def merge(self, former: HealthReport, seen: set[str], *, unseen_expired: bool) -> tuple[Mapping[str, HealthItems], set[str]]:
        """The lists by name, and the entities named in ``former`` that have expired: those we had ``seen`` and no longer know.

        The others may still send; ``unseen_expired`` says that they have had the time to, and have expired too.
        """
        expired: set[str] = set()
        lists: dict[str, HealthItems] = {}
        for name, tally, watched in (
            ("silent", self.silent, self.settings.max_entity_silence_seconds is not None),
            ("still", self.still, self.settings.still_metrics),
            ("empty", self.empty, self.settings.empty_metrics),
        ):
            known: HealthItems = getattr(former, name)
            kept: dict[tuple[str, str], HealthItem] = {}
            uncounted = 0  # kept items that this survey did not find itself
            for one in known.named if watched else ():
                holds, counted = self._still_holds(name, one)
                if holds is None and (unseen_expired or one.entity in seen):
                    expired.add(one.entity)
                elif holds is None or holds:
                    kept[one.entity, one.metric] = one
                    uncounted += not counted
            new = [one for one in tally.oldest if (one.entity, one.metric) not in kept]
            named = [*sorted(kept.values(), key=_by_age), *new][:MAX_NAMED]
            lists[name] = HealthItems(tuple(named), tally.count + uncounted)
        return lists, expired

    def labels(self, lists: Iterable[HealthItems], former: HealthReport) -> dict[str, Mapping[str, str]]:
        """The labels of the entities named, ``LABEL_BYTES`` at most; where we have none since a restart, those reported before."""
        found: dict[str, Mapping[str, str]] = {}
        left = LABEL_BYTES
        for entity in dict.fromkeys(one.entity for items in lists for one in items.named):
            model = self.models.of(entity)
            labels = (model.processor.labels_of(entity) if model is not None else {}) or former.labels.get(entity, {})
            left -= len(msgspec.json.encode([entity, labels])) if labels else 0
            if left < 0:
                break
            if labels:
                found[entity] = labels
        return found

    def knows(self, entity: str) -> bool:
        """Whether the entity has a slot in this partition."""
        return self._find(entity) is not None

    def _find(self, entity: str) -> tuple[Model, int] | None:
        model = self.models.of(entity)
        slot = None if model is None else model.processor.slot_of(entity, self.partition)
        return None if model is None or slot is None else (model, slot)

    def _still_holds(self, name: str, one: HealthItem) -> tuple[bool | None, bool]:
        """Whether an item named before still holds, None where the entity is unknown; and whether ``scan`` counted it too."""
        found = self._find(one.entity)
        if found is None:
            return None, False
        model, slot = found
        if name == "silent":
            newest = int(model.processor.windows.heads[slot, NEWEST]) * model.schema.interval_ms
            return newest <= one.since, newest <= one.since and newest < self._silent_before(model)
        if one.metric not in model.schema.metrics:
            return False, False
        states, _ = stuck_states(model.processor.windows, np.array([slot], np.int64), *self._watched(model))
        state = int(states[0, model.schema.metrics.index(one.metric)])
        return state in _NOT_REFUTED[name], state == _STATE_OF[name]

    def _silent_before(self, model: Model) -> int:
        """An entity without a row since this time is silent; only after it has missed at least two intervals."""
        if self.latest is None or self.settings.max_entity_silence_seconds is None:
            return EMPTY
        return self.latest - max(round(self.settings.max_entity_silence_seconds * 1000), 2 * model.schema.interval_ms)

    def _watched(self, model: Model) -> tuple[Mask, Mask]:
        if model.name not in self._masks:
            activity, none = model.detector.bundle.metric_activity, np.zeros(model.schema.dims, np.bool_)
            self._masks[model.name] = (
                activity.moves if self.settings.still_metrics else none,
                activity.filled if self.settings.empty_metrics else none,
            )
        return self._masks[model.name]

    def _add(self, tally: Tally, model: Model, slots: I64, metrics: I64 | None, since: I64, chosen: Mask) -> None:
        at = np.flatnonzero(chosen)
        count = len(at)
        if count > MAX_NAMED:
            at = at[np.argpartition(since[at], MAX_NAMED)[:MAX_NAMED]]
        tally.add(count, [
            HealthItem(
                model.processor.entity_of(int(slots[i])),
                int(since[i]),
                "" if metrics is None else model.schema.metrics[int(metrics[i])],
            )
            for i in at.tolist()
        ])  # fmt: skip
