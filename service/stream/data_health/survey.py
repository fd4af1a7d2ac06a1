"""Who of a partition is silent, which metrics stand still or are empty: one look at everybody, in small pieces. Pure.

What was said before is said until the contrary is seen. A window that begins anew, or that a restart could not refill, says
nothing about what it held: whoever was named stays named until it sends again, moves again, or is forgotten for its silence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from service.domain import I64, HealthItem, HealthItems, HealthReport, Mask
from service.settings import DataHealthSettings
from service.stream.data_health.stuck_metrics import FEW, NULLS, STILL, UNKNOWN, standing
from service.stream.models import Model, Models
from service.stream.window_buffers import EMPTY, NEWEST, PARTITION

MOST_NAMED = 100  # of each list
PIECE = 1024  # slots looked at between two batches: a millisecond, or, where all of 38 metrics stand still, some ten

# What keeps somebody named who was: the states that are no proof of the contrary.
_STAYS = {"still": {STILL, UNKNOWN, FEW}, "empty": {NULLS, UNKNOWN}}


@dataclass
class Tally:
    """The oldest of a kind so far, and how many there are of it."""

    count: int = 0
    oldest: list[HealthItem] = field(default_factory=list)

    def add(self, count: int, some: Iterable[HealthItem]) -> None:
        """``count`` more, the oldest of which are ``some``."""
        self.count += count
        self.oldest = sorted([*self.oldest, *some], key=_age)[:MOST_NAMED]


def _age(one: HealthItem) -> tuple[int, str, str]:
    return one.since, one.entity, one.metric


@dataclass
class Survey:
    """One look at one partition. ``latest``: what its time (event time, ms) would be now had rows gone on to come; None: unknown.

    Call ``look`` for each of ``pieces``, then ``settle``, all of it where nothing else uses the windows.
    """

    models: Models
    partition: int
    settings: DataHealthSettings
    latest: int | None
    silent: Tally = field(default_factory=Tally)
    still: Tally = field(default_factory=Tally)
    empty: Tally = field(default_factory=Tally)
    _masks: dict[str, tuple[Mask, Mask]] = field(default_factory=dict)

    def pieces(self) -> Iterator[tuple[Model, int]]:
        """The pieces of everybody, each a model and the first of its slots."""
        for model in self.models.all:
            for begin in range(0, len(model.processor.windows.heads), PIECE):
                yield model, begin

    def look(self, model: Model, begin: int) -> None:
        """Take in one piece."""
        windows, interval = model.processor.windows, model.schema.interval_ms
        head = windows.heads[begin : begin + PIECE]
        slots: I64 = np.flatnonzero((head[:, PARTITION] == self.partition) & (head[:, NEWEST] != EMPTY)) + begin
        newest = windows.heads[slots, NEWEST] * interval
        self._add(self.silent, model, slots, None, newest, newest < self._silent_before(model))
        moves, filled = self._watched(model)
        states, since = standing(windows, slots, moves, filled)
        for tally, state in ((self.still, STILL), (self.empty, NULLS)):
            at, metric = np.nonzero(states == state)
            self._add(tally, model, slots[at], metric, since[at, metric] * interval, np.ones(len(at), np.bool_))

    def settle(self, before: HealthReport, met: set[str], *, unmet_are_gone: bool) -> tuple[Mapping[str, HealthItems], set[str]]:
        """The lists by name, and who of those named ``before`` is gone: known once (``met``) and no more. Nobody knows where the
        others are, until that is so long ago that they are gone too."""
        gone: set[str] = set()
        lists: dict[str, HealthItems] = {}
        for name, tally, watched in (
            ("silent", self.silent, self.settings.max_entity_silence_seconds is not None),
            ("still", self.still, self.settings.still_metrics),
            ("empty", self.empty, self.settings.empty_metrics),
        ):
            known: HealthItems = getattr(before, name)
            kept: dict[tuple[str, str], HealthItem] = {}
            unseen = 0
            for one in known.named if watched else ():
                stays, seen = self._stays(name, one)
                if stays is None and (unmet_are_gone or one.entity in met):
                    gone.add(one.entity)
                elif stays is None or stays:
                    kept[one.entity, one.metric] = one
                    unseen += not seen
            new = [one for one in tally.oldest if (one.entity, one.metric) not in kept]
            named = [*sorted(kept.values(), key=_age), *new][:MOST_NAMED]
            lists[name] = HealthItems(tuple(named), tally.count + unseen)
        return lists, gone

    def knows(self, entity: str) -> bool:
        """Whether somebody's rows are held here."""
        return self._place(entity) is not None

    def _place(self, entity: str) -> tuple[Model, int] | None:
        model = self.models.of(entity)
        slot = None if model is None else model.processor.slot_of(entity, self.partition)
        return None if model is None or slot is None else (model, slot)

    def _stays(self, name: str, one: HealthItem) -> tuple[bool | None, bool]:
        """Whether somebody named before stays so, None where nothing is known of the entity; and whether ``look`` saw it too."""
        place = self._place(one.entity)
        if place is None:
            return None, False
        model, slot = place
        if name == "silent":
            newest = int(model.processor.windows.heads[slot, NEWEST]) * model.schema.interval_ms
            return newest <= one.since, newest <= one.since and newest < self._silent_before(model)
        if one.metric not in model.schema.metrics:
            return False, False
        states, _ = standing(model.processor.windows, np.array([slot], np.int64), *self._watched(model))
        state = int(states[0, model.schema.metrics.index(one.metric)])
        return state in _STAYS[name], state == {"still": STILL, "empty": NULLS}[name]

    def _silent_before(self, model: Model) -> int:
        """Who has no row since this time is silent; and nobody is before a second row of his is wanting."""
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
        if count > MOST_NAMED:
            at = at[np.argpartition(since[at], MOST_NAMED)[:MOST_NAMED]]
        tally.add(count, [
            HealthItem(
                model.processor.entity_of(int(slots[i])),
                int(since[i]),
                "" if metrics is None else model.schema.metrics[int(metrics[i])],
            )
            for i in at.tolist()
        ])  # fmt: skip
