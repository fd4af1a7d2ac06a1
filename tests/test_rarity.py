"""What a surprise is worth for an entity today: ordered, joined, the identity before any drift, and right as often as it says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.detectors.decision import alert_budget, budget_params
from service.rarity import rarities, rarity

LEVELS = st.floats(0.3, 40.0)


@settings(deadline=None)  # the first call compiles the kernel
@given(surprise=st.floats(0.0, 60.0), level=LEVELS)
def test_where_nothing_has_drifted_it_is_the_surprise_itself(surprise: float, level: float) -> None:
    assert rarity(surprise, 1.0, level, 0.0) == pytest.approx(surprise)


@settings(deadline=None)  # the first call compiles the kernel
@given(
    surprises=st.lists(st.floats(0.0, 60.0), min_size=2, max_size=20),
    common=st.floats(0.1, 40.0),
    level=LEVELS,
    calm=st.floats(1.0, 6.0),
)
def test_it_grows_with_the_surprise_and_follows_the_calibrated_tail_beyond_the_level(
    surprises: list[float], common: float, level: float, calm: float
) -> None:
    ordered = np.sort(np.array(surprises))
    found = rarities(ordered, np.full(len(ordered), common), np.full(len(ordered), level), np.full(len(ordered), level - calm))
    assert (np.diff(found) >= -1e-9).all()
    assert (found >= 0).all()
    beyond = ordered > level
    assert found[beyond] == pytest.approx(calm + ordered[beyond] - level)
    assert (found[~beyond] <= calm + 1e-9).all()


def test_its_pieces_meet() -> None:
    for at, expected in ((4.0, 1.0), (9.0, 3.0)):
        below, above = (rarity(at + step, 4.0, 9.0, 6.0) for step in (-1e-9, 1e-9))
        assert below == pytest.approx(expected) == pytest.approx(above)
    assert rarity(0.0, 4.0, 9.0, 6.0) == 0.0


@pytest.mark.parametrize("per_row", [0.01, 0.001, 1 / 1440])
@pytest.mark.parametrize("stride", [1, 10])
@pytest.mark.parametrize("factor", [0.5, 1.0, 4.0])
def test_one_window_in_ten_is_one_in_ten_whatever_has_drifted(per_row: float, stride: int, factor: float) -> None:
    windows = 200_000 // stride
    surprises = np.random.default_rng(5).exponential(factor / math.log(10), windows)
    params, rows = budget_params.params_at(per_row, stride), np.arange(1, windows + 1) * stride
    _, decided = alert_budget.steps([alert_budget.start(params)], np.zeros(windows, np.int64), rows, surprises, params)
    p = 10.0 ** -rarities(surprises, decided.common, decided.level, decided.shift)
    # Up to the level, that is; in unusual calm the level is held up, and rather says too little.
    seen = {
        claimed: (p[windows // 10 :] <= claimed).mean() / claimed for claimed in (0.1, 0.03, 0.01) if claimed >= per_row * stride
    }
    assert 0.5 < seen[0.1] < 2
    assert max(seen.values()) < 4
    assert factor < 1 or min(seen.values()) > 0.5
