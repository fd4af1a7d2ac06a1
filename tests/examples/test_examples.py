"""The examples run as a reader would run them, and do what their first lines say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from examples.custom_detector import LargestMove
from service.detectors.features.scaler import Scaler
from service.domain import Series
from service.errors import NotEnoughData
from service.sources.topic_dataset import read_topic
from service.state.topics import create_topics
from tests.sources.rig import kafka_settings

ROOT = Path(__file__).parent.parent.parent


def run(name: str, *options: str) -> str:
    told = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "examples" / name), *options]
    return subprocess.run(command, env=told, capture_output=True, text=True, check=True, timeout=170).stdout


def test_the_library_finds_the_fault_and_names_the_metric() -> None:
    found = [int(row) for row in re.findall(r"row (\d+): .*mainly latency", run("library.py"))]
    assert any(300 <= row < 345 for row in found)


def test_the_custom_detector_finds_the_fault_and_names_the_metric() -> None:
    assert re.match(r"row 15\d: b, score 0\.\d", run("custom_detector.py"))


@pytest.mark.kafka
async def test_what_the_producer_sends_can_be_trained_on(kafka_servers: str) -> None:
    settings = kafka_settings(kafka_servers)
    await create_topics(settings.kafka)
    topic = settings.kafka.topics.metrics
    run("producer.py", "--servers", kafka_servers, "--topic", topic, "--rows", "20", "--interval", "0.2")
    dataset = await read_topic(settings, last_seconds=600.0, interval_ms=200)
    assert set(dataset.schema.metrics) == {"cpu", "memory", "queries"}
    assert {series.entity for series in dataset.series} == {"db-1", "db-2"}


def test_the_custom_detector_keeps_the_detector_contract() -> None:
    """The parts of ``tests/contracts/test_detector_contract.py`` that do not depend on the table of detectors."""
    values = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    series = [Series("a", 0, values)]
    features = Scaler().fit(series).windows(series, 30)
    detector = LargestMove(name="mine")
    assert detector.name == "mine"
    with pytest.raises(NotEnoughData, match="at least 10"):
        detector.fit(features.take(slice(0, 9)))
    detector.fit(features)
    scores, parts = detector.score(features), detector.attribute(features)
    assert scores.shape == (len(features),)
    assert scores.dtype == parts.dtype == np.float64
    assert parts.shape == (len(features), 4)
    assert (parts >= 0).all()
    settings, arrays = detector.state()
    again = LargestMove()
    again.restore(msgspec.json.decode(msgspec.json.encode(settings)), arrays)
    assert np.array_equal(again.score(features), scores)
