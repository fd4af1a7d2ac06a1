"""Records taken in many batches lead to what they lead to in one."""

from __future__ import annotations

import numpy as np
import pytest

from service.app import build_model, make_detector
from service.detectors.bundle import Bundle
from service.domain import Dataset, Record, Schema, Series, Verdict
from service.settings import Settings
from service.sources.base import RecordBatch
from service.sources.codecs.message import encode
from service.sources.codecs.native import NativeCodec
from service.stream.intake import Intake
from service.stream.models import Models
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


async def outcome(bundle: Bundle, together: int) -> tuple[list[Verdict], list[int]]:
    models = Models([("*", build_model(bundle, SETTINGS))])
    intake = Intake(NativeCodec(models.schema_of, SETTINGS.stream), models)
    sent, verdicts, refused = records(), [], []
    for begin in range(0, len(sent), together):
        slid = await intake.take(RecordBatch(sent[begin : begin + together], {0: 0}))
        assert slid.commits[0].offset == min(begin + together, len(sent))
        for model, windows in slid.due:
            verdicts += await model.detector.detect(windows)
        refused += [item.record.offset for item in slid.rejected]
    intake.close()
    return verdicts, refused


@pytest.mark.parametrize("together", [1, 7, 64])
async def test_many_batches_lead_to_what_one_leads_to(bundle: Bundle, together: int) -> None:
    whole, refused = await outcome(bundle, 10_000)
    pieces, refused_of_pieces = await outcome(bundle, together)
    assert len(whole) >= 3 * (ROWS - 20) // 5  # each entity has one window every five rows, wherever its phase lies
    assert [(v.entity, v.end_row, v.is_anomaly) for v in pieces] == [(v.entity, v.end_row, v.is_anomaly) for v in whole]
    np.testing.assert_allclose([v.surprise for v in pieces], [v.surprise for v in whole], rtol=1e-5, atol=1e-5)
    assert refused_of_pieces == refused == [49, 99, 149]
    assert {v.not_scored for v in pieces} == {None}


async def test_what_only_refills_is_neither_refused_again_nor_committed(bundle: Bundle) -> None:
    models = Models([("*", build_model(bundle, SETTINGS))])
    intake = Intake(NativeCodec(models.schema_of, SETTINGS.stream), models)
    sent = records()
    refill = await intake.take(RecordBatch(sent[:100], {0: 100}))
    assert (refill.due, refill.rejected, refill.commits) == ([], [], {})
    first = await intake.take(RecordBatch(sent[100:101], {0: 100}))
    assert first.commits[0].offset == 101
    intake.close()
