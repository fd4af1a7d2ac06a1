"""A batch taken in pieces leads to what the batch taken whole leads to."""

from __future__ import annotations

import numpy as np
import pytest

from service.app import build_model, make_detector
from service.detectors.bundle import Bundle
from service.domain import Dataset, Record, Schema, Series, Verdict
from service.settings import Settings
from service.sources.codecs.message import encode
from service.sources.codecs.native import NativeCodec
from service.stream import pipeline
from service.stream.models import Models
from service.stream.pipeline import Due, Pipeline
from service.training.train import train

METRICS = ("cpu", "mem", "io")
SETTINGS = Settings.model_validate({"training": {"window": 20, "stride": 5, "detectors": {"mahalanobis": 1.0}}})
ROWS, FIRST = 60, 1_700_000_000


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    values = np.random.default_rng(3).normal(size=(900, len(METRICS))).astype(np.float32)
    dataset = Dataset(Schema(METRICS, 1000), [Series("host", 0, values)])
    training = SETTINGS.training
    return train(dataset, training, name="small", detectors=training.detectors, factory=make_detector)


def records() -> list[Record]:
    """Three entities row by row, and one message in fifty that nobody can read."""
    values = np.random.default_rng(4).normal(size=(ROWS, 3, len(METRICS))).round(3).tolist()
    made: list[Record] = []
    for row in range(ROWS):
        for at in range(3):
            name, stamp = f"host-{at}", (FIRST + row) * 1000
            value = encode(name, stamp, dict(zip(METRICS, values[row][at], strict=True)))
            made.append(Record("metrics", 0, len(made), stamp, name.encode(), b"{" if len(made) % 50 == 49 else value))
    return made


async def score(due: Due) -> list[Verdict]:
    return [verdict for model, windows in due for verdict in await model.detector.detect(windows)]


async def outcome(bundle: Bundle, piece: int, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Verdict], list[int]]:
    monkeypatch.setattr(pipeline, "PIECE", piece)
    models = Models([("*", build_model(bundle, SETTINGS))])
    path = Pipeline(NativeCodec(models.schema_of, SETTINGS.stream), models, score)
    verdicts, rejected = await path.score(records(), {})
    path.close()
    return verdicts, [item.record.offset for item in rejected]


@pytest.mark.parametrize("piece", [1, 7, 64])
async def test_pieces_lead_to_what_the_whole_leads_to(bundle: Bundle, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, refused = await outcome(bundle, 10_000, monkeypatch)
    pieces, refused_of_pieces = await outcome(bundle, piece, monkeypatch)
    assert len(whole) >= 3 * (ROWS - 20) // 5  # each entity has one window every five rows, wherever its phase lies
    assert [(v.entity, v.end_row, v.is_anomaly) for v in pieces] == [(v.entity, v.end_row, v.is_anomaly) for v in whole]
    np.testing.assert_allclose([v.surprise for v in pieces], [v.surprise for v in whole], rtol=1e-5, atol=1e-5)
    assert refused_of_pieces == refused == [49, 99, 149]
    assert {v.not_scored for v in pieces} == {None}
