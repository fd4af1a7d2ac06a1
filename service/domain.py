"""The values that travel down the path of a sample. All are frozen: a stage replaces a value, it never mutates one.

Units: times are integer milliseconds since the Unix epoch (event time unless the name says otherwise); rows are
``floor(event time / interval)``; ``p`` is a tail probability (smaller is stranger); ``surprise`` is ``-log10 p``.
``gc=False`` marks what is made by the thousand and can be part of no cycle: the collector need not look at it.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, NamedTuple, overload

import msgspec
import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Severity(StrEnum):
    """How loudly an anomaly should be told; ordered by ``rank``."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0, 1, 2 from ``info`` to ``critical``."""
        return ("info", "warning", "critical").index(self.value)


class SeverityBounds(NamedTuple):
    """The calibrated scores, in [0, 1], above which an anomaly is that severe."""

    warning: float = 0.7
    critical: float = 0.9

    def of(self, score: float) -> Severity:
        """The severity of a score."""
        if score > self.critical:
            return Severity.CRITICAL
        return Severity.WARNING if score > self.warning else Severity.INFO

    def below(self, severity: Severity) -> float:
        """The score that lies just below a severity; 0 for ``info``."""
        return (0.0, self.warning, self.critical)[severity.rank]


class Status(StrEnum):
    """Where an alert is in its life."""

    PENDING = "pending"
    FIRING = "firing"
    RESOLVED = "resolved"


class Schema(msgspec.Struct, frozen=True):
    """Which metrics a model reads, in which order, on which time grid."""

    metrics: tuple[str, ...]
    interval_ms: int

    @property
    def dims(self) -> int:
        """How many metrics a row has."""
        return len(self.metrics)


class Record(msgspec.Struct, frozen=True, gc=False):
    """One message as it lay in the topic: bytes and position, nothing decoded. ``timestamp`` is the record's own, in ms."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


class Rejected(msgspec.Struct, frozen=True):
    """A record set aside, with its reason (``errors.InvalidMessage.reason``) and a sentence for a person."""

    record: Record
    reason: str
    message: str


class Sample(msgspec.Struct, frozen=True, eq=False):
    """One row of one entity, in the schema's order.

    ``values``: float32 (dims,), NaN where missing. ``mask``: bool (dims,), True where observed.
    ``row`` = floor(timestamp / interval). ``record`` keeps the bytes and position it came from.
    """

    entity: str
    row: int
    timestamp: int
    values: Any  # F32 (dims,); msgspec does not know array types
    mask: Any  # Mask (dims,)
    record: Record
    labels: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True, eq=False)
class Samples(Sequence[Sample]):
    """Many samples of one schema, kept as columns: what a codec hands on, so that no stage walks them one by one.

    ``timestamps``, ``rows``: int64 (n,); ``values``: float32 (n, dims), NaN where missing (the mask is exactly its
    complement); ``entities``, ``records`` and, when any sample has some, ``labels``: n of each. Taking one item or
    iterating makes ordinary ``Sample`` values.
    """

    schema: Schema
    entities: Sequence[str]
    timestamps: I64
    rows: I64
    values: F32
    records: Sequence[Record]
    labels: Sequence[Mapping[str, str] | None] | None = None

    @classmethod
    def of(cls, schema: Schema, samples: Sequence[Sample]) -> Samples:
        """The same samples as columns; those already in columns are returned as they are."""
        if isinstance(samples, Samples):
            return samples
        values = np.empty((len(samples), schema.dims), np.float32)
        for at, sample in enumerate(samples):
            values[at] = np.where(sample.mask, sample.values, np.float32(np.nan))
        return cls(
            schema,
            [sample.entity for sample in samples],
            np.fromiter((sample.timestamp for sample in samples), np.int64, len(samples)),
            np.fromiter((sample.row for sample in samples), np.int64, len(samples)),
            values,
            [sample.record for sample in samples],
            [sample.labels for sample in samples],
        )

    def __len__(self) -> int:
        return len(self.entities)

    @overload
    def __getitem__(self, at: int) -> Sample: ...

    @overload
    def __getitem__(self, at: slice) -> Samples: ...

    def __getitem__(self, at: int | slice) -> Sample | Samples:
        labels = None if self.labels is None else self.labels[at]
        if isinstance(at, slice):
            columns = (self.entities[at], self.timestamps[at], self.rows[at], self.values[at], self.records[at])
            return Samples(self.schema, *columns, labels)  # type: ignore[arg-type]  # a slice of labels is a sequence
        values = self.values[at]
        return Sample(
            entity=self.entities[at],
            row=int(self.rows[at]),
            timestamp=int(self.timestamps[at]),
            values=values,
            mask=~np.isnan(values),
            record=self.records[at],
            labels=labels or {},  # type: ignore[arg-type]  # one item of labels is a mapping or None
        )


@dataclass(frozen=True, slots=True, eq=False)
class WindowBatch:
    """Windows that are due, of any number of entities that share one schema.

    ``values``: float32 (n, window, dims); a missing entry holds the entity's last seen value, or NaN if none was seen
    since its window was last reset. ``mask``: bool, same shape, True where observed. ``end_rows``: int64 (n,), row of
    the newest sample of each window. ``partitions``, ``first_offsets``, ``last_offsets``: int64 (n,), the records that
    reproduce each window. ``labels``: the newest labels of each entity. Windows of one entity appear in row order.
    """

    schema: Schema
    values: F32
    mask: Mask
    entities: tuple[str, ...]
    end_rows: I64
    topic: str
    partitions: I64
    first_offsets: I64
    last_offsets: I64
    labels: tuple[Mapping[str, str], ...]

    def __len__(self) -> int:
        return len(self.entities)


MemberState = Literal["ok", "failed", "timeout", "untrained"]


class MemberScore(msgspec.Struct, frozen=True, gc=False):
    """One detector's word on one window: raw score (higher is stranger), its tail probability, and whether it spoke at all."""

    name: str
    raw: float | None
    p: float | None
    state: MemberState = "ok"
    reason: str = ""


class MetricShare(msgspec.Struct, frozen=True, gc=False):
    """One metric's part in an anomaly: ``share`` in [0, 1] of the attribution, what was seen and what was normal.

    ``expected`` is the centre and ``spread`` one robust standard deviation, both in the metric's own unit.
    ``recent`` is the newest rows of the metric in the window, oldest first, for pictures; NaN is sent as null.
    """

    name: str
    share: float
    actual: float | None
    expected: float | None
    spread: float | None = None
    recent: tuple[float | None, ...] = ()


class Verdict(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the ensemble says of one window.

    ``surprise``: -log10 of the ensemble's calibrated tail probability, before drift adjustment; ``level``: the surprise
    at which this entity would be called anomalous now (tracked online); ``shift``: how far drift moved that level from its
    calibrated start; ``common``: the surprise that one of its windows in ten exceeds now. ``p`` and ``score`` are adjusted for
    drift (``service/rarity.py``), ``p`` never below ``floor``, the least that calibration can vouch for;
    ``score = clip(-log10(p) / 6, 0, 1)``; severity, "one in N" and ``is_anomaly`` all follow from them.
    ``fresh_p``: tail probability of the newest ``stride`` rows taken by themselves (disjoint evidence).
    ``not_scored``: why the window has no score (coverage, cold, no detector); then every number above is neutral.
    """

    entity: str
    end_row: int
    timestamp: int
    stride: int
    not_scored: str | None = None
    surprise: float = 0.0
    level: float = 0.0
    shift: float = 0.0
    common: float = 1.0
    p: float = 1.0
    floor: float = 0.0
    score: float = 0.0
    fresh_p: float = 1.0
    is_anomaly: bool = False
    severity: Severity = Severity.INFO
    members: tuple[MemberScore, ...] = ()
    metrics: tuple[MetricShare, ...] = ()
    bundle: str = ""
    bundle_version: str = ""
    interval_ms: int = 1000
    labels: Mapping[str, str] = {}
    topic: str = ""
    partition: int = -1
    first_offset: int = -1
    last_offset: int = -1


Action = Literal["opened", "fired", "raised", "lowered", "updated", "acknowledged", "resolved"]


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One transition in the life of one alert, carrying the alert's whole state after it.

    ``alert_id`` is ``alert_id(entity, bundle, first anomalous row)``; ``seq`` counts transitions from 1, so the newest
    state of an alert is the one with the highest ``seq``. ``action`` and ``reason`` say what changed and why. An alert of the
    kind ``data_health`` is about the data, of one entity or of the metrics topic (then its ``entity``), and carries no score.
    """

    alert_id: str
    seq: int
    action: Action
    reason: str
    entity: str
    status: Status
    severity: Severity
    peak_severity: Severity
    started_at: int
    updated_at: int
    fired_at: int | None = None
    ended_at: int | None = None
    acknowledged_by: str | None = None
    score: float
    peak_score: float
    p: float
    peak_p: float
    windows: int = 1
    metrics: tuple[MetricShare, ...] = ()
    members: tuple[MemberScore, ...] = ()
    bundle: str = ""
    bundle_version: str = ""
    config_hash: str = ""
    labels: Mapping[str, str] = {}
    topic: str = ""
    partition: int = -1
    first_offset: int = -1
    last_offset: int = -1
    kind: Literal["anomaly", "data_health"] = "anomaly"


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


def phase_of(entity: str) -> int:
    """Where an entity's grid of windows lies: one ends at every row r with ``(r + phase) % stride == 0``."""
    return zlib.crc32(entity.encode())


def alert_id(entity: str, bundle: str, first_row: int) -> str:
    """Deterministic id of an alert: the same anomaly found again, by any process, has the same id (32 hex digits)."""
    return hashlib.sha256(f"{bundle}\x00{first_row}\x00{entity}".encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One entity's rows on the grid, equally spaced: values float32 (n, dims) with NaN where missing; ``start_row`` is
    the grid row of ``values[0]``; ``labels`` uint8 (n,), 1 = anomalous, or None where nobody labelled them."""

    entity: str
    start_row: int
    values: F32
    labels: NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Series that share one schema, for training, evaluation and replay."""

    schema: Schema
    series: Sequence[Series]

    @property
    def rows(self) -> int:
        """Rows of all series together."""
        return sum(len(series.values) for series in self.series)
