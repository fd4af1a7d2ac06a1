"""Metrics messages as a data set, without a schema known in advance: the input of training."""

from __future__ import annotations

import fnmatch
import math
import sys

import numpy as np

from service.clock import Clock, SystemClock
from service.domain import Dataset, Record
from service.errors import InvalidMessage, NotEnoughData
from service.progress import Progress, silent
from service.settings import Settings
from service.sources.codecs.message import check_time, entity_of, parse, timestamp_of, values_by_name
from service.sources.grid import to_dataset
from service.sources.topic_range import read_range


class MessageRows:
    """Collects the rows of messages whose entity matches a glob.

    Metrics are named as in the messages, in order of appearance; those of array values are named m00, m01, …
    """

    def __init__(self, entities: str = "*") -> None:
        self.rejected = 0
        self._glob = entities
        self._metrics: dict[str, int] = {}
        self._entities: list[str] = []
        self._timestamps: list[int] = []
        self._values: list[dict[int, float]] = []

    def __len__(self) -> int:
        return len(self._entities)

    def add(self, record: Record, *, max_bytes: int = sys.maxsize, max_ahead_ms: int | None = None) -> None:
        """Read one message. Raises ``InvalidMessage``."""
        message = parse(record, max_bytes)
        entity, timestamp = entity_of(message, record.key), timestamp_of(message)
        if max_ahead_ms is not None:
            check_time(timestamp, record.timestamp, max_ahead_ms)
        if not fnmatch.fnmatchcase(entity, self._glob):
            return
        row = {}
        for name, value in values_by_name(message).items():
            if value is not None and math.isfinite(value):
                row[self._metrics.setdefault(name, len(self._metrics))] = value
        self._entities.append(sys.intern(entity))
        self._timestamps.append(timestamp)
        self._values.append(row)

    def dataset(self, interval_ms: int | None = None) -> Dataset:
        """The rows on the grid. Raises ``NotEnoughData`` without any, ``DatasetError`` when the interval cannot be measured."""
        if not self._metrics:
            raise NotEnoughData("There are no messages with values to learn from.", hint="Publish some first, or go further back.")
        values = np.full((len(self._values), len(self._metrics)), np.nan, np.float32)
        with np.errstate(over="ignore"):
            for at, row in enumerate(self._values):
                values[at, list(row)] = list(row.values())
        values[np.isinf(values)] = np.nan
        return to_dataset(
            tuple(self._metrics), self._entities, np.array(self._timestamps, np.int64), values, interval_ms=interval_ms
        )


async def read_topic(
    settings: Settings,
    *,
    last_seconds: float | None = None,
    last_records: int | None = None,
    interval_ms: int | None = None,
    entities: str = "*",
    progress: Progress = silent,
    clock: Clock | None = None,
) -> Dataset:
    """The last part of the metrics topic, up to where it ends now, for training.

    ``last_seconds`` goes by the records' timestamps; ``entities`` is a glob. Invalid messages are skipped. Raises
    ``NotEnoughData``, ``DatasetError``, ``ConfigError`` or ``BrokerUnavailable``.
    """
    now = (clock or SystemClock()).now_ms()
    since = None if last_seconds is None else now - round(last_seconds * 1000)
    max_ahead_ms = round(settings.stream.max_ahead_seconds * 1000)
    rows = MessageRows(entities)
    done = 0
    topic = settings.kafka.topics.metrics
    async for records in read_range(settings.kafka, topic, since_ms=since, last_records=last_records):
        done += len(records)
        for record in records:
            try:
                rows.add(record, max_bytes=settings.stream.max_message_bytes, max_ahead_ms=max_ahead_ms)
            except InvalidMessage:
                rows.rejected += 1
        progress("reading", done, 0, f"{rows.rejected} bad messages" if rows.rejected else "")
    return rows.dataset(interval_ms)
