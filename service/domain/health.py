"""What is known of the data itself."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class HealthItem(msgspec.Struct, frozen=True, gc=False):
    """An entity, or one metric of it, and since when (event time, ms)."""

    entity: str
    since: int
    metric: str = ""


class HealthItems(msgspec.Struct, frozen=True):
    """Of ``count`` of a kind those named, the oldest first."""

    named: tuple[HealthItem, ...] = ()
    count: int = 0

    @property
    def whole(self) -> bool:
        """True when who is not named is none of them."""
        return self.count <= len(self.named)


class TrainedModel(msgspec.Struct, frozen=True):
    """A bundle at work, and when it was trained (ms)."""

    name: str
    trained_at: int


class HealthReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the scoring worker that owns a partition of the metrics topic knows of its data, at ``at`` (wall clock).

    ``turn`` is another one each time the partition changes hands; ``taken`` and ``late`` count its samples since then: those in
    time or not, and those too late to be used. ``head``: the newest time of the partition; ``head_at``: since when (wall clock)
    nothing newer has come although it could have. ``silent``: entities, since their last row; ``still`` and ``empty``: metrics that
    do not move, or have only nulls; ``gone``: who of them was forgotten for its silence, and when.
    """

    topic: str
    partition: int
    turn: str
    at: int
    head: int | None = None
    head_at: int = 0
    taken: int = 0
    late: int = 0
    silent: HealthItems = HealthItems()
    still: HealthItems = HealthItems()
    empty: HealthItems = HealthItems()
    gone: tuple[HealthItem, ...] = ()
    models: tuple[TrainedModel, ...] = ()


class DataSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One look at the metrics topic. ``lag``: messages not read yet, by partition; ``read`` and ``rejected`` (by reason): messages
    since the look before; ``quiet_ms``: since anything arrived. ``reports``: the newest of each partition, where it is new enough
    to be believed; ``taken`` and ``late``: samples since the look before, as reported."""

    lag: Mapping[int, int]
    read: int = 0
    rejected: Mapping[str, int] = {}
    quiet_ms: int = 0
    reports: Mapping[int, HealthReport] = {}
    taken: int = 0
    late: int = 0
