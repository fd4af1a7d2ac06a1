"""``tidewatch check`` on bundles: what a budget beyond the calibration's support means."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.commands.check import check_models
from service.detectors.bundle import save_bundle
from service.settings import Settings
from tests.stream.small import small_bundle


@pytest.mark.parametrize(("budget", "said"), [({"false_alarms_per_entity_day": 400}, False), ({"false_pages_per_day": 0.5}, True)])
def test_a_budget_that_the_calibration_does_not_support_is_told(tmp_path: Path, budget: dict[str, float], said: bool) -> None:
    save_bundle(small_bundle(), tmp_path / "small")
    models = [{"match": "*", "bundle": str(tmp_path / "small")}]
    (result,) = check_models(Settings.model_validate({"models": models, "detection": {"budget": budget}}))
    assert result.good
    assert ("the alert budget of 0.5 a day for each entity is rarer than this calibration supports" in result.detail) is said
