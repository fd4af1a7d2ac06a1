"""The time between rows is what the producers were told, whatever the jitter of their clocks and the rows that were lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.sources.grid import infer_interval


def sent(interval_ms: float, *, rows: int, jitter_ms: float, lost: float, seed: int) -> np.ndarray:
    """Time stamps of one entity: a phase of its own, jitter, lost rows."""
    rng = np.random.default_rng(seed)
    times = 1_700_000_000_000 + rng.uniform(0, interval_ms) + np.arange(rows) * interval_ms + rng.normal(0, jitter_ms, rows)
    return np.round(times[rng.random(rows) > lost]).astype(np.int64)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([1000, 5000, 10_000, 15_000, 60_000, 300_000]),
    st.floats(0.0, 0.05),
    st.floats(0.0, 0.05),
    st.integers(0, 1000),
)
def test_jitter_and_lost_rows_do_not_change_a_round_interval(interval: int, jitter: float, lost: float, seed: int) -> None:
    times = sent(interval, rows=3000, jitter_ms=jitter * interval, lost=lost, seed=seed)
    assert infer_interval(["db-7"] * len(times), times) == interval


@pytest.mark.parametrize("interval", [7000, 10_100, 61_000, 1234])
def test_an_interval_that_is_not_round_stays_what_it_is(interval: int) -> None:
    times = sent(interval, rows=3000, jitter_ms=0.0, lost=0.01, seed=1)
    assert abs(infer_interval(["db-7"] * len(times), times) - interval) <= 1
