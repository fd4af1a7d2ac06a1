"""What a surprise is worth for an entity today: ordered, joined, the identity before any drift."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain import AS_CALIBRATED
from service.rarity import rarities, rarity


@settings(deadline=None)  # the first call compiles the kernel
@given(surprise=st.floats(0.0, 60.0))
def test_where_nothing_has_drifted_it_is_the_surprise_itself(surprise: float) -> None:
    assert rarity(surprise, *AS_CALIBRATED) == pytest.approx(surprise)


@settings(deadline=None)
@given(st.lists(st.floats(0.0, 60.0), min_size=2, max_size=30), st.lists(st.floats(0.02, 60.0), min_size=3, max_size=3))
def test_it_grows_with_the_surprise_and_its_pieces_meet(surprises: list[float], three: list[float]) -> None:
    exceeded = sorted(three)
    ordered = np.sort(surprises)
    found = rarities(ordered, np.tile(exceeded, (len(ordered), 1)))
    assert np.isfinite(found).all()
    assert (np.diff(found) >= 0).all()
    assert (found >= 0).all()
    if exceeded[0] < exceeded[1] < exceeded[2]:
        assert [rarity(at, *exceeded) for at in exceeded] == pytest.approx([1.0, 2.0, 3.0])
    beyond = ordered > exceeded[2]
    assert found[beyond] == pytest.approx(3 + ordered[beyond] - exceeded[2])
