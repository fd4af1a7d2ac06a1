"""What training remembers of metrics that stand still or are not there, against the slow and obvious way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.detectors.windowing.metric_activity import MetricActivity, count_activity, least_observed_rows
from service.domain import F32, Series


def obvious(values: F32, window: int) -> tuple[int, int, int]:
    """Windows of one metric decided, still, empty."""
    decided = still = empty = 0
    for end in range(window, len(values) + 1):
        seen = [value for value in values[end - window : end].tolist() if not np.isnan(value)]
        empty += not seen
        decided += len(seen) >= least_observed_rows(window)
        still += len(seen) >= least_observed_rows(window) and len(set(seen)) == 1
    return decided, still, empty


@given(st.lists(st.lists(st.sampled_from([0.0, 0.0, 0.0, 1.0, np.nan]), max_size=40), min_size=1, max_size=3), st.integers(1, 7))
@settings(max_examples=300, deadline=None)
def test_windows_are_counted_as_the_obvious_way_counts_them(runs: list[list[float]], window: int) -> None:
    series = [Series("host", 0, np.array([run, [7.0] * len(run)], np.float32).T.reshape(len(run), 2)) for run in runs]
    found = count_activity(series, window)
    expected = np.sum([obvious(one.values[:, 0], window) for one in series], axis=0).tolist()
    assert [found.decided[0], found.still[0], found.empty[0]] == expected
    assert found.windows == sum(max(0, len(run) - window + 1) for run in runs)
    assert found.still[1] == found.decided[1] == (found.windows if window > 1 else 0)  # a window of one row says nothing


def test_less_than_one_window_in_a_thousand_of_a_thousand_is_unusual() -> None:
    found = MetricActivity(windows=1000, decided=(1000, 1000, 999, 1001), still=(0, 1, 0, 1), empty=(0, 1, 0, 0))
    assert found.moves.tolist() == [True, False, False, True]
    assert found.filled.tolist() == [True, False, True, True]
    assert not MetricActivity(windows=999, decided=(0,), still=(0,), empty=(0,)).filled.any()


def test_counts_of_different_metrics_are_refused() -> None:
    with pytest.raises(ValueError, match="same metrics"):
        MetricActivity(windows=1, decided=(1,), still=(), empty=(1,))
