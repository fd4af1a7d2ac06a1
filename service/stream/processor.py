"""From samples to due windows: adds entity names, partitions, labels, limits and expiry to the pure windows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec
import numpy as np

from service.clock import Clock, SystemClock
from service.detectors.windowing.early_windows import EarlyWindows
from service.domain import I64, Rejected, Sample, Samples, Schema, WindowBatch, phase_of
from service.settings import StreamSettings
from service.stream.recency import Recency
from service.stream.samples import select
from service.stream.window_buffers import DUPLICATE, EMPTY, LATE, LOW_COVERAGE, NEWEST, PARTITION, RESETS, START
from service.stream.windows import Due, Shape, Windows

_NO_LABELS: Mapping[str, str] = {}


class StreamCounts(msgspec.Struct, frozen=True):
    """Totals since the start: rows dropped as too late or as duplicates, runs ended by a long gap, windows below ``min_coverage``,
    and entities expired for silence; then the entities known now and their limit."""

    late: int
    duplicate: int
    gap_resets: int
    low_coverage: int
    expired: int
    entities: int
    max_entities: int


class StreamProcessor:
    """Slides windows over every entity of one model. The semantics are those of ``windows.py``.

    An entity belongs to the partition it was first seen on. Memory: ``Shape.bytes_per_slot`` for each of at most
    ``max_entities`` entities, whatever their number of rows. When all slots are in use, samples of new entities are rejected, and
    entities that fell silent before they filled a window expire early. So invented names neither keep slots nor evict entities
    that have one.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        window: int,
        stride: int,
        settings: StreamSettings,
        early: EarlyWindows | None = None,
        clock: Clock | None = None,
    ) -> None:
        """``early``: when windows are due between those of the grid; None: never."""
        self.schema = schema
        self._early_tables: Mapping[str, int] = early.tables if early is not None else {}
        self._clock = clock or SystemClock()
        shape = Shape(
            dims=schema.dims,
            window=window,
            stride=stride,
            max_gap=settings.max_gap_rows,
            lateness=min(window, int(settings.allowed_lateness_seconds * 1000) // schema.interval_ms),
            min_coverage=settings.min_coverage,
        )
        # After more than max_gap silent rows a new run begins anyway, so expiry after that changes no window.
        self._run_ended_rows = shape.max_gap + shape.lateness + 1
        self._idle_rows = max(int(settings.idle_after_seconds * 1000) // schema.interval_ms, self._run_ended_rows)
        self._full = False  # the newest sample of a new entity was rejected: no free slot
        self._settings = settings
        self._windows = Windows(shape, max_slots=settings.max_entities, early=early)
        self._slots: dict[str, int] = {}
        self._entities: list[str] = []  # by slot
        # The newest labels of each entity, also those restored for entities not seen since. By name and not by slot: they are read
        # while the next batch is processed.
        self._labels: dict[str, Mapping[str, str]] = {}
        self._newest_row: dict[int, int] = {}  # by partition: partitions may be replayed at different speeds
        self._swept_at: dict[int, int] = {}
        self._recency = Recency()
        self._expired_count = 0
        self._expired_entities: list[tuple[int, str]] = []

    @property
    def counts(self) -> StreamCounts:
        """Totals since the start."""
        counts = self._windows.counts
        return StreamCounts(
            late=int(counts[LATE]),
            duplicate=int(counts[DUPLICATE]),
            gap_resets=int(counts[RESETS]),
            low_coverage=int(counts[LOW_COVERAGE]),
            expired=self._expired_count,
            entities=len(self._slots),
            max_entities=self._settings.max_entities,
        )

    @property
    def windows(self) -> Windows:
        """The windows by slot. Read-only, and never while ``add`` runs."""
        return self._windows

    def entity_of(self, slot: int) -> str:
        """The entity of a slot."""
        return self._entities[slot]

    def slot_of(self, entity: str, partition: int) -> int | None:
        """The slot of an entity of this partition, if it is known."""
        slot = self._slots.get(entity)
        return slot if slot is not None and self._windows.heads[slot, PARTITION] == partition else None

    def newest_row(self, partition: int) -> int | None:
        """The newest row of a partition, at most the present one: samples from the future do not move it further."""
        return self._newest_row.get(partition)

    def max_records_for(self, nbytes: int) -> int:
        """How many records make at most ``nbytes`` of windows due; at least one. Counts the worst case, in which every row ends as
        many early windows as it may."""
        shape = self._windows.shape
        return max(nbytes // shape.bytes_per_window, 1) * shape.stride // self._windows.max_due_per_stride

    @property
    def nbytes(self) -> int:
        """Bytes of all windows now."""
        return self._windows.nbytes

    def add(self, samples: Sequence[Sample], resume_at: Mapping[int, int]) -> tuple[list[WindowBatch], list[Rejected]]:
        """Feed samples in arrival order; the windows that came due, and the rejected samples.

        Samples before their partition's ``resume_at`` only refill. Reasons: ``split-entity``, ``too-many-entities``.
        """
        if not len(samples):
            return [], []
        columns = Samples.of(self.schema, samples)
        partitions = np.array([record.partition for record in columns.records], np.int64)
        due_and_rejected = self._feed(columns, partitions, resume_at)
        # Expire after processing, so that rows in this batch refresh their entity first and its windows are emitted before it is
        # dropped.
        self._expire_idle(partitions, columns.rows)
        return due_and_rejected

    def _feed(self, columns: Samples, partitions: I64, resume_at: Mapping[int, int]) -> tuple[list[WindowBatch], list[Rejected]]:
        slots, rejected = self._find_slots(columns, partitions)
        self._recency.note(slots, partitions)
        accepted = slots >= 0
        if not accepted.all():
            columns, partitions, slots = select(columns, accepted), partitions[accepted], slots[accepted]
            if not len(columns):
                return [], rejected
        if columns.labels is not None:
            self._labels.update({name: labels for name, labels in zip(columns.entities, columns.labels, strict=True) if labels})
        offsets = np.array([record.offset for record in columns.records], np.int64)
        due = self._windows.push(slots, columns.rows, offsets, columns.values, _resume_column(partitions, resume_at))
        return [self._batch(part, columns.records[0].topic) for part in due], rejected

    def drop_partitions(self, partitions: Collection[int]) -> list[str]:
        """Drop every entity of these partitions; their names."""
        dropped: list[str] = []
        for partition in partitions:
            dropped += self._close(np.flatnonzero(self._windows.heads[:, PARTITION] == partition).tolist())
            self._newest_row.pop(partition, None)
            self._swept_at.pop(partition, None)
            self._recency.drop(partition)
        return dropped

    def labels_of(self, entity: str) -> Mapping[str, str]:
        """The newest labels of an entity."""
        return self._labels.get(entity, _NO_LABELS)

    def restore_labels(self, entity: str, labels: Mapping[str, str]) -> None:
        """Set labels from a state record: they apply until a sample brings newer ones."""
        self._labels[entity] = labels

    def drop_restored_labels(self, entities: Collection[str]) -> None:
        """Drop the restored labels of entities that were not seen since."""
        for entity in entities:
            if entity not in self._slots:
                self._labels.pop(entity, None)

    def take_expired(self) -> list[tuple[int, str]]:
        """The entities that expired since the last call, as (partition, entity)."""
        expired, self._expired_entities = self._expired_entities, []
        return expired

    def oldest_offset(self, partition: int) -> int | None:
        """The oldest offset of this partition that windows still need, None when none is. Cheap enough for every commit."""
        return self._windows.oldest_offset(partition)

    def _find_slots(self, columns: Samples, partitions: I64) -> tuple[I64, list[Rejected]]:
        """The slot of each sample, -1 where it is rejected; and the rejected samples."""
        known = self._slots
        slots = np.array([known.get(entity, -1) for entity in columns.entities], np.int64)
        rejected: list[Rejected] = []
        for at in np.flatnonzero(slots < 0).tolist():
            slot = self._find_or_open(columns.entities[at], int(partitions[at]))
            if slot is None:
                sentence = f"{self._settings.max_entities:,} entities are followed already, which is stream.max_entities."
                rejected.append(Rejected(columns.records[at], "too-many-entities", sentence))
            else:
                slots[at] = slot
        owners = self._windows.heads[slots, PARTITION] if len(self._windows.heads) else partitions
        for at in np.flatnonzero((owners != partitions) & (slots >= 0)).tolist():
            sentence = (
                f"The entity {columns.entities[at]!r} is also on partition {owners[at]}; give its messages one key, so that they"
                " all go to one partition."
            )
            rejected.append(Rejected(columns.records[at], "split-entity", sentence))
            slots[at] = -1
        return slots, rejected

    def _find_or_open(self, entity: str, partition: int) -> int | None:
        slot = self._slots.get(entity)
        if slot is not None:
            return slot
        slot = self._windows.open(phase=phase_of(entity), partition=partition, table=self._early_tables.get(entity, 0))
        self._full = slot is None
        if slot is None:
            return None
        self._slots[entity] = slot
        if slot == len(self._entities):
            self._entities.append("")
        self._entities[slot] = entity
        return slot

    def _expire_idle(self, partitions: I64, rows: I64) -> None:
        """Expire entities whose newest row is ``_idle_rows`` behind their partition's; checked each tenth of that distance. When
        all slots are in use, also those that fell silent before they filled a window.

        Samples from the future do not move the partition's newest row: a producer whose clock is wrong would make all other
        entities look silent. Live, the future begins now. While old records are read, it begins behind what most entities say.
        """
        now = self._clock.now_ms() // self.schema.interval_ms
        latest = now + int(self._settings.max_ahead_seconds * 1000) // self.schema.interval_ms
        for partition in np.unique(partitions).tolist():
            told = max(min(int(rows[partitions == partition].max()), now), self._newest_row.get(partition, EMPTY))
            self._newest_row[partition] = told
            step = max(1, self._idle_rows // 10)
            if not self._full and told - self._swept_at.setdefault(partition, told) < step:
                continue
            agreed = min(self._recency.agreed_row(self._windows.heads, partition, told), now)
            newest = told if now - agreed <= step else agreed
            self._newest_row[partition] = self._swept_at[partition] = newest
            head = self._windows.heads
            silent = head[:, NEWEST] < newest - self._idle_rows
            if self._full:
                unfilled = head[:, NEWEST] - head[:, START] + 1 < self._windows.shape.window
                silent |= unfilled & ((head[:, NEWEST] < newest - self._run_ended_rows) | (head[:, NEWEST] > latest))
            idle = np.flatnonzero((head[:, PARTITION] == partition) & silent)
            self._expired_count += len(idle)
            self._expired_entities += [(partition, entity) for entity in self._close(idle.tolist())]

    def _close(self, slots: Sequence[int]) -> list[str]:
        names = [self._entities[slot] for slot in slots]
        for slot, name in zip(slots, names, strict=True):
            del self._slots[name]
            self._entities[slot] = ""
            self._labels.pop(name, None)
            self._windows.close(slot)
        return names

    def _batch(self, due: Due, topic: str) -> WindowBatch:
        entities = tuple([self._entities[slot] for slot in due.slots.tolist()])
        return WindowBatch(
            schema=self.schema,
            values=due.values,
            mask=due.mask,
            entities=entities,
            end_rows=due.end_rows,
            topic=topic,
            partitions=self._windows.heads[due.slots, PARTITION],
            first_offsets=due.first_offsets,
            last_offsets=due.last_offsets,
            labels=tuple([self._labels.get(name, _NO_LABELS) for name in entities]),
        )


def _resume_column(partitions: I64, resume_at: Mapping[int, int]) -> I64:
    """Each sample's own partition's ``resume_at``; 0 where none is given."""
    column = np.zeros(len(partitions), np.int64)
    for partition, offset in resume_at.items():
        if offset:
            column[partitions == partition] = offset
    return column
