"""The health of the data itself: what scoring workers report, and what the notifier finds in Kafka."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class HealthItem(msgspec.Struct, frozen=True, gc=False):
    """An entity, or one metric of it, and since when (event time, ms)."""

    entity: str
    since: int
    metric: str = ""


class HealthItems(msgspec.Struct, frozen=True):
    """``count`` findings of one kind; ``named`` are the oldest of them, or all."""

    named: tuple[HealthItem, ...] = ()
    count: int = 0

    @property
    def complete(self) -> bool:
        """True when all are named."""
        return self.count <= len(self.named)


class TrainedModel(msgspec.Struct, frozen=True):
    """A bundle in use, and when it was trained (ms)."""

    name: str
    trained_at: int


class HealthReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the scoring worker that owns a partition of the metrics topic knows of its data, at ``at`` (wall clock).

    ``ownership`` changes each time the partition changes hands; ``taken`` and ``late`` count its samples since then, and those of
    them that came too late to be used. ``head``: the newest time of the partition; ``head_at``: since when (wall clock) nothing
    newer has come although Kafka could be read. ``silent``: entities, since their last row. ``still`` and ``empty``: metrics that
    are constant, or all null. ``forgotten``: entities that were forgotten because they were silent, and when. ``labels``: of the
    entities named, where they have some (bounded: of very many, the last ones lack theirs). ``entities``: how many there
    are; ``population``: how many of them have each value of a label, by label, without labels of very many values.
    """

    topic: str
    partition: int
    ownership: str = msgspec.field(name="turn")  # the name in records
    at: int
    head: int | None = None
    head_at: int = 0
    taken: int = 0
    late: int = 0
    silent: HealthItems = HealthItems()
    still: HealthItems = HealthItems()
    empty: HealthItems = HealthItems()
    forgotten: tuple[HealthItem, ...] = msgspec.field(name="gone", default=())  # the name in records
    models: tuple[TrainedModel, ...] = ()
    labels: Mapping[str, Mapping[str, str]] = {}
    entities: int = 0
    population: Mapping[str, Mapping[str, int]] = {}


class DataSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The metrics topic at one check. ``lag``: messages not read yet, by partition; ``read`` and ``rejected`` (by reason): messages
    since the check before; ``quiet_ms``: since anything arrived. ``reports``: the newest of each partition, unless it is too old;
    ``taken`` and ``late``: samples since the check before, as reported."""

    lag: Mapping[int, int]
    read: int = 0
    rejected: Mapping[str, int] = {}
    quiet_ms: int = 0
    reports: Mapping[int, HealthReport] = {}
    taken: int = 0
    late: int = 0
