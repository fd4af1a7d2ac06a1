"""The demo's training data: those collected metrics that a minute is enough for, or the older part of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from service.detectors.windowing.metric_activity import count_activity
from service.domain import Dataset, Mask, Schema, Series
from service.settings import Settings
from service.sources.files import read_dataset
from service.sources.topic_dataset import read_topic

LEVELS = ("load.", "memory.", "swap.", "processes")
OFTEN = 0.1  # share of the windows in which a metric must have moved to be learned


async def learnable(settings: Settings, seconds: float, hz: float) -> Dataset:
    """The last seconds of the topic, without the metrics that so short a time is not enough for: levels, and what hardly moved.

    The usual range of memory and load takes longer than a minute to see. A counter that stood still in the training part and
    ticked once in the calibration part would give the calibration one extreme score a minute, which hides real faults.
    """
    dataset = await read_topic(settings, last_seconds=seconds, interval_ms=round(1000 / hz))
    often = moving(dataset.series, round(hz))
    kept = [at for at, name in enumerate(dataset.schema.metrics) if often[at] and not name.startswith(LEVELS)]
    schema = Schema(tuple(dataset.schema.metrics[at] for at in kept), dataset.schema.interval_ms)
    return Dataset(schema, [Series(one.entity, one.start_row, one.values[:, kept]) for one in dataset.series])


def moving(series: Sequence[Series], rows: int) -> Mask:
    """Bool (dims,): which metrics moved in at least ``OFTEN`` of the windows of ``rows`` rows."""
    activity = count_activity(series, rows)
    decided, still = np.array(activity.decided), np.array(activity.still)
    often: Mask = (decided > 0) & (decided - still >= OFTEN * decided)
    return often


def split_data(data: Path) -> tuple[Dataset, Dataset]:
    """An older part to learn from and a newer one to watch: an archive's own split, else 60 % and 40 % of the rows.

    Raises ``DatasetError``.
    """
    if data.suffix == ".npz":
        return read_dataset(data, split="train"), read_dataset(data, split="test")
    whole = read_dataset(data)
    cuts = [(series, int(len(series.values) * 0.6)) for series in whole.series]
    past = [Series(one.entity, one.start_row, one.values[:at]) for one, at in cuts]
    coming = [Series(one.entity, one.start_row + at, one.values[at:]) for one, at in cuts]
    return Dataset(whole.schema, past), Dataset(whole.schema, coming)
