"""Records taken in many batches lead to what they lead to in one."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from service.app import build_model
from service.detectors.bundle import Bundle
from service.domain import Record, Verdict
from service.sources.base import RecordBatch
from service.sources.codecs.native import NativeCodec
from service.stream.intake import Intake
from service.stream.models import Models
from tests.stream.small import METRICS, SETTINGS, records

ROWS = 60


def sent() -> list[Record]:
    """Three entities row by row, and one message in fifty that nobody can read."""
    made = records(np.random.default_rng(4).normal(size=(ROWS, 3, len(METRICS))).astype(np.float32))
    return [msgspec.structs.replace(one, value=b"{") if one.offset % 50 == 49 else one for one in made]


async def outcome(bundle: Bundle, together: int) -> tuple[list[Verdict], list[int]]:
    models = Models([("*", build_model(bundle, SETTINGS))])
    intake = Intake(NativeCodec(models.schema_of, SETTINGS.stream), models)
    all_of_them, refused = sent(), []
    verdicts: list[Verdict] = []
    for begin in range(0, len(all_of_them), together):
        result = await intake.process(RecordBatch(all_of_them[begin : begin + together], {0: 0}))
        assert result.commits[0].offset == min(begin + together, len(all_of_them))
        for model, windows in result.due:
            verdicts += await model.detector.detect(windows)
        refused += [item.record.offset for item in result.rejected]
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
    all_of_them = sent()
    refill = await intake.process(RecordBatch(all_of_them[:100], {0: 100}))
    assert (refill.due, refill.rejected, refill.commits) == ([], [], {})
    first = await intake.process(RecordBatch(all_of_them[100:101], {0: 100}))
    assert first.commits[0].offset == 101
    intake.close()
