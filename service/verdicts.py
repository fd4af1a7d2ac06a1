"""The verdicts on a batch of windows: columns for the many within their level, a whole ``Verdict`` for those asked for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Self, overload

from service.domain import MemberScore, Verdict


class Verdicts(Sequence[Verdict]):
    """Verdicts on n windows, in their order.

    Nearly all windows are scored and not anomalous: *within their level*. Of such a window only the entity and the end time are
    needed, unless an alert is open. So a ``Verdict`` is made each time it is asked for, equal each time.
    """

    __slots__ = ("_make", "ends_ms", "entities", "partitions", "within_level", "without_score")

    def __init__(
        self,
        entities: Sequence[str],
        ends_ms: Sequence[int],
        partitions: Sequence[int],
        within_level: Sequence[bool],
        make: Callable[[int], Verdict],
        without_score: tuple[MemberScore, ...] = (),
    ) -> None:
        """Columns of n entries; ``make(i)`` makes the whole verdict on window i.

        ``ends_ms``: event time of each window's newest row; ``within_level``: scored and not anomalous; ``without_score``: the
        detectors that gave no score for the non-anomalous windows, with their reasons.
        """
        self.entities = entities
        self.ends_ms = ends_ms
        self.partitions = partitions
        self.within_level = within_level
        self.without_score = without_score
        self._make = make

    @classmethod
    def of(cls, verdicts: Sequence[Verdict]) -> Self:
        """From verdicts that are made already."""
        return cls(
            [one.entity for one in verdicts],
            [one.end_row * one.interval_ms for one in verdicts],
            [one.partition for one in verdicts],
            [one.not_scored is None and not one.is_anomaly for one in verdicts],
            verdicts.__getitem__,
        )

    def __len__(self) -> int:
        return len(self.entities)

    @overload
    def __getitem__(self, at: int) -> Verdict: ...
    @overload
    def __getitem__(self, at: slice) -> list[Verdict]: ...
    def __getitem__(self, at: int | slice) -> Verdict | list[Verdict]:
        places = range(len(self))[at]
        return self._make(places) if isinstance(places, int) else [self._make(place) for place in places]

    def notable(self) -> Iterator[Verdict]:
        """Those not within their level: anomalous, or without a score."""
        return (self._make(at) for at, within_level in enumerate(self.within_level) if not within_level)

    def by_partition(self) -> dict[int, Verdicts]:
        """The same verdicts by partition, in their order."""
        places: dict[int, list[int]] = defaultdict(list)
        for at, partition in enumerate(self.partitions):
            places[partition].append(at)
        if len(places) == 1:
            return {next(iter(places)): self}
        return {partition: self._some(chosen) for partition, chosen in places.items()}

    def _some(self, places: Sequence[int]) -> Verdicts:
        make = self._make
        return Verdicts(
            [self.entities[at] for at in places],
            [self.ends_ms[at] for at in places],
            [self.partitions[at] for at in places],
            [self.within_level[at] for at in places],
            lambda at: make(places[at]),
            self.without_score,
        )
