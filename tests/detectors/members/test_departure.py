"""A metric that has just departed, distinguished from metrics that have been unusual for long."""

from __future__ import annotations

import numpy as np
import pytest

from service.detectors.features.scaler import Scaler
from service.detectors.features.windows import Features
from service.detectors.members.departure import DepartureDetector
from service.detectors.members.metricwise import MetricwiseDetector
from service.domain import F32, Series
from service.errors import NotEnoughData
from tests.detectors.members.test_metricwise import WINDOW, rows, windows


@pytest.fixture(scope="module")
def fitted() -> tuple[Scaler, DepartureDetector]:
    train = rows(4000)
    scaler, detector = Scaler().fit([Series("a", 0, train)]), DepartureDetector()
    detector.fit(windows(scaler, train))
    return scaler, detector


def swapped(metric: int, seed: int, for_rows: int = 30) -> F32:
    """The metric keeps its range and its rhythm, but is no longer correlated with the others."""
    new = rows(600, seed=seed)
    new[-for_rows:, metric] = rows(600, seed=seed + 100)[-for_rows:, metric]
    return new


def off_for_long(values: F32, metric: int) -> F32:
    """Another metric lies three units off in every row."""
    out = values.copy()
    out[:, metric] += 3.0
    return out


def test_a_broken_relation_stands_out_and_is_named_though_another_metric_has_been_off_for_long(
    fitted: tuple[Scaler, DepartureDetector],
) -> None:
    scaler, detector = fitted
    usual = np.quantile(detector.score(windows(scaler, off_for_long(rows(2000, seed=50), 19))), 0.99)
    for metric in (0, 7, 13):
        fault = windows(scaler, off_for_long(swapped(metric, seed=metric + 1), 19))
        assert detector.score(fault)[-30:].max() > 1.5 * usual
        assert detector.attribute(fault)[-30:].max(axis=0).argmax() == metric


def test_what_has_been_off_for_longer_than_half_a_window_does_not_count(fitted: tuple[Scaler, DepartureDetector]) -> None:
    scaler, detector = fitted
    usual = windows(scaler, rows(2000, seed=50))
    shifted = windows(scaler, off_for_long(rows(2000, seed=50), 4))
    still_strange = MetricwiseDetector()
    still_strange.fit(windows(scaler, rows(4000)))
    assert np.median(detector.score(shifted)) < 2 * np.median(detector.score(usual))
    assert np.median(still_strange.score(shifted)) > 2 * np.median(still_strange.score(usual))


def test_scores_are_of_the_largest_departure(fitted: tuple[Scaler, DepartureDetector]) -> None:
    scaler, detector = fitted
    usual = windows(scaler, rows(2000, seed=50))
    np.testing.assert_allclose(detector.score(usual), np.log1p(detector.attribute(usual).max(axis=1)))


@pytest.mark.parametrize("window", [2, 3, 20])
def test_short_windows_have_an_earlier_half_too(window: int) -> None:
    values = rows(800)
    scaler, detector = Scaler().fit([Series("a", 0, values)]), DepartureDetector()
    features: Features = scaler.windows([Series("a", 0, values)], window)
    detector.fit(features)
    assert np.isfinite(detector.score(features)).all()


def test_needs_windows_and_round_trips(fitted: tuple[Scaler, DepartureDetector]) -> None:
    scaler, detector = fitted
    with pytest.raises(NotEnoughData, match="departure detector needs at least 64"):
        DepartureDetector().fit(windows(scaler, rows(120)))
    with pytest.raises(RuntimeError, match="not fitted"):
        DepartureDetector().score(windows(scaler, rows(WINDOW + 20)))
    again = DepartureDetector()
    again.restore(*detector.state())
    new = windows(scaler, rows(200, seed=9))
    np.testing.assert_array_equal(again.score(new), detector.score(new))
