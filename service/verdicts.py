"""What the ensemble says of the windows of a batch: columns for the many that are calm, a whole ``Verdict`` for those asked for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Self, overload

from service.domain import MemberScore, Verdict


class Verdicts(Sequence[Verdict]):
    """Verdicts on n windows, in their order.

    Nearly all windows are *calm*: scored, and within their level. Of a calm one nobody asks more than whose it is and when it
    ends, unless an alert is open; so a ``Verdict`` is made when it is asked for, each time anew, and equal each time.
    """

    __slots__ = ("_make", "calm", "ends_ms", "entities", "partitions", "silent")

    def __init__(
        self,
        entities: Sequence[str],
        ends_ms: Sequence[int],
        partitions: Sequence[int],
        calm: Sequence[bool],
        make: Callable[[int], Verdict],
        silent: tuple[MemberScore, ...] = (),
    ) -> None:
        """Columns of n entries, and ``make(i)`` for the whole of one; ``silent``: the detectors without a word on the calm ones."""
        self.entities = entities
        self.ends_ms = ends_ms
        self.partitions = partitions
        self.calm = calm
        self.silent = silent
        self._make = make

    @classmethod
    def of(cls, verdicts: Sequence[Verdict]) -> Self:
        """The same of verdicts that are made already."""
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
        """Those that are not calm: anomalous, or without a score."""
        return (self._make(at) for at, calm in enumerate(self.calm) if not calm)

    def by_partition(self) -> dict[int, Verdicts]:
        """The same verdicts apart for each partition, in their order."""
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
            [self.calm[at] for at in places],
            lambda at: make(places[at]),
            self.silent,
        )
