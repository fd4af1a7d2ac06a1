"""Publishes a data set to the metrics topic, in real time or faster."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from service.clock import Clock, SystemClock
from service.domain import Dataset
from service.progress import Progress, silent
from service.settings import KafkaSettings
from service.sources.codecs.message import EARLIEST_MS, encode
from service.sources.publisher import MetricsMessage, MetricsPublisher

CHUNK_ROWS = 2000


async def replay(
    dataset: Dataset,
    kafka: KafkaSettings,
    *,
    speed: float = 0.0,
    rebase: bool = False,
    progress: Progress = silent,
    clock: Clock | None = None,
) -> int:
    """Publish every row with a value; returns how many messages that made.

    ``speed``: 1 is real time, 10 ten times faster, 0 as fast as Kafka accepts them. ``rebase`` shifts event time so that no row
    lies in the future while it is published (see ``time_shift``); a data set without real times (a NumPy archive) is always
    shifted. Raises ``BrokerUnavailable`` or ``ConfigError``.
    """
    clock = clock or SystemClock()
    shift = time_shift(dataset, now_ms=clock.now_ms(), speed=speed, rebase=rebase)
    interval = dataset.schema.interval_ms
    publisher = MetricsPublisher(kafka)
    await publisher.start()
    published = 0
    total = dataset.rows
    started = clock.monotonic()
    done = 0
    try:
        for elapsed_ms, rows, messages in _steps(
            dataset, shift, chunk_rows=1 if speed else max(1, CHUNK_ROWS // len(dataset.series))
        ):
            if speed:
                wait = started + elapsed_ms / 1000 / speed - clock.monotonic()
                if wait > 0:
                    await clock.sleep(wait)
            await publisher.publish(messages)
            done += rows
            published += len(messages)
            progress("replaying", done, total, f"{(elapsed_ms + interval) / 1000:,.0f} s of event time")
    finally:
        await publisher.close()
    return published


def time_shift(dataset: Dataset, *, now_ms: int, speed: float, rebase: bool) -> int:
    """Grid rows to add to every row, so that no row lies in the future while it is published: in real time or slower the first
    row becomes now; faster, the last row becomes the end of the replay; 0 without ``rebase`` where times are real."""
    interval = dataset.schema.interval_ms
    first = min(series.start_row for series in dataset.series)
    last = max(series.start_row + len(series.values) for series in dataset.series)
    if not rebase and first * interval >= EARLIEST_MS:
        return 0
    span_ms = (last - first) * interval
    lead_ms = span_ms - span_ms / speed if speed else span_ms
    return int((now_ms - max(0.0, lead_ms)) // interval) - first


def _steps(dataset: Dataset, shift: int, *, chunk_rows: int) -> Iterator[tuple[int, int, list[MetricsMessage]]]:
    """Per ``chunk_rows`` grid rows of all series, in time order: (ms since the first row, rows, messages)."""
    interval, metrics = dataset.schema.interval_ms, dataset.schema.metrics
    first = min(series.start_row for series in dataset.series)
    last = max(series.start_row + len(series.values) for series in dataset.series)
    for row in range(first, last, chunk_rows):
        messages: list[MetricsMessage] = []
        rows = 0
        for series in dataset.series:
            begin = max(row - series.start_row, 0)
            values = series.values[begin : max(0, row + chunk_rows - series.start_row)]
            rows += len(values)
            for at in np.flatnonzero(np.isfinite(values).any(axis=1)).tolist():
                timestamp = (series.start_row + begin + at + shift) * interval
                named = dict(zip(metrics, values[at].tolist(), strict=True))
                messages.append(MetricsMessage(series.entity, encode(series.entity, timestamp, named)))
        if rows:
            yield (row - first) * interval, rows, messages
