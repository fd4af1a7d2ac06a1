"""A new detector is one file and one line: this adds one, and uses it from training to verdict through a bundle on disk."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from service import app
from service.detectors.bundle import save_bundle
from service.domain import F32, Dataset, Schema, Series, Verdict
from service.settings import Settings
from service.stream.models import Model
from service.stream.samples import rows_to_samples
from service.training.train import train

ONE_FILE = '''
import numpy as np

from service.errors import NotEnoughData


class LargestMove:
    """Scores a window by the largest distance of any metric from its centre, in scales."""

    name = "largest_move"

    def fit(self, features, *, progress=None):
        if len(features) < 10:
            raise NotEnoughData("largest_move needs at least 10 windows.")
        self.usual = float(np.abs(features.last).max())

    def score(self, features):
        return np.abs(features.last).max(axis=1).astype(np.float64) / self.usual

    def attribute(self, features):
        return np.abs(features.last).astype(np.float64)

    def state(self):
        return {"usual": self.usual}, {}

    def restore(self, settings, arrays):
        self.usual = settings["usual"]
'''


def test_a_new_detector_is_one_file_and_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "largest_move.py").write_text(ONE_FILE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(app.DETECTORS, "largest_move", "largest_move:LargestMove")  # the one line

    rng = np.random.default_rng(0)
    normal = rng.normal(size=(1500, 3)).astype(np.float32)
    dataset = Dataset(Schema(("a", "b", "c"), 1000), [Series("pump", 0, normal)])
    settings = Settings.model_validate({"training": {"window": 20, "stride": 5, "detectors": {"largest_move": 1.0}}})
    bundle = train(dataset, settings.training, name="new", detectors=settings.training.detectors, factory=app.make_detector)
    save_bundle(bundle, tmp_path / "bundle")

    model = app.build_model(app.open_bundle(tmp_path / "bundle"), settings)
    faulty = rng.normal(size=(200, 3)).astype(np.float32)
    faulty[150:, 1] += 25
    verdicts = asyncio.run(_judge(model, faulty))

    worst = max(verdicts, key=lambda verdict: verdict.surprise)
    assert worst.end_row >= 150
    assert [member.name for member in worst.members] == ["largest_move"]
    assert worst.metrics[0].name == "b"


async def _judge(model: Model, rows: F32) -> list[Verdict]:
    due, _ = model.processor.add(rows_to_samples(rows, model.schema, entity="pump"), {})
    return [verdict for windows in due for verdict in await model.detector.detect(windows)]
