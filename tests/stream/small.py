"""A quickly trained bundle of three metrics, and messages of some entities for it."""

from __future__ import annotations

import numpy as np

from service.app import make_detector
from service.detectors.bundle import Bundle
from service.domain import F32, Dataset, Record, Schema, Series
from service.settings import Settings
from service.sources.codecs.message import encode
from service.training.train import train

METRICS = ("cpu", "mem", "io")
SETTINGS = Settings.model_validate({"training": {"window": 20, "stride": 5, "detectors": {"mahalanobis": 1.0}}})
FIRST = 1_700_000_000


def small_bundle() -> Bundle:
    """Trained on noise."""
    values = np.random.default_rng(3).normal(size=(900, len(METRICS))).astype(np.float32)
    training = SETTINGS.training
    dataset = Dataset(Schema(METRICS, 1000), [Series("host", 0, values)])
    return train(dataset, training, name="small", detectors=training.detectors, factory=make_detector)


def records(values: F32) -> list[Record]:
    """``values`` (rows, entities, metrics) as one partition's records, row by row."""
    made: list[Record] = []
    for row, entities in enumerate(values.round(3).tolist()):
        for at, told in enumerate(entities):
            name, stamp = f"host-{at}", (FIRST + row) * 1000
            value = encode(name, stamp, dict(zip(METRICS, told, strict=True)))
            made.append(Record("metrics", 0, len(made), stamp, name.encode(), value))
    return made
