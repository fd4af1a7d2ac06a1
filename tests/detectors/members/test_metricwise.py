"""One metric at a time: single faults that a distance over everything does not see."""

from __future__ import annotations

import numpy as np
import pytest

from service.detectors.features.scaler import Scaler
from service.detectors.features.windows import Features
from service.detectors.members.mahalanobis import MahalanobisDetector
from service.detectors.members.metricwise import MetricwiseDetector
from service.domain import F32, Series
from service.errors import NotEnoughData

WINDOW = 100


def rows(count: int, dims: int = 20, seed: int = 0) -> F32:
    """Metrics correlated in groups of five, wandering slowly."""
    rng = np.random.default_rng(seed)
    steps = rng.standard_normal((count, dims // 5))
    shared = np.repeat(np.stack([np.convolve(one, np.ones(8) / np.sqrt(8), "same") for one in steps.T], axis=1), 5, axis=1)
    return (shared + 0.3 * rng.standard_normal((count, dims))).astype(np.float32)


def windows(scaler: Scaler, values: F32) -> Features:
    return scaler.windows([Series("a", 0, values)], WINDOW)


@pytest.fixture(scope="module")
def fitted() -> tuple[Scaler, MetricwiseDetector, MahalanobisDetector]:
    train = rows(4000)
    scaler = Scaler().fit([Series("a", 0, train)])
    alone, whole = MetricwiseDetector(), MahalanobisDetector()
    alone.fit(windows(scaler, train))
    whole.fit(windows(scaler, train))
    return scaler, alone, whole


def frozen(metric: int, seed: int, for_rows: int = 60) -> F32:
    new = rows(600, seed=seed)
    new[-for_rows:, metric] = new[-for_rows, metric]
    return new


def test_a_frozen_metric_stands_out_further_than_by_the_distance_over_everything(
    fitted: tuple[Scaler, MetricwiseDetector, MahalanobisDetector],
) -> None:
    scaler, alone, whole = fitted
    for metric in (0, 7, 13):
        usual, fault = windows(scaler, rows(2000, seed=50)), windows(scaler, frozen(metric, seed=metric + 1))
        by_metric = alone.score(fault)[-1] / np.quantile(alone.score(usual), 0.99)
        by_distance = whole.score(fault)[-1] / np.quantile(whole.score(usual), 0.99)
        assert by_metric > 1.5
        assert by_metric > 1.2 * by_distance
        assert alone.attribute(fault)[-1].argmax() == metric


def test_scores_are_the_root_mean_of_the_parts_and_near_one_at_worst_on_normal_windows(
    fitted: tuple[Scaler, MetricwiseDetector, MahalanobisDetector],
) -> None:
    scaler, alone, _ = fitted
    usual = windows(scaler, rows(2000, seed=50))
    scores = alone.score(usual)
    np.testing.assert_allclose(scores, np.sqrt(alone.attribute(usual).mean(axis=1)))
    assert 0.2 < np.median(scores) < 1.0
    assert np.quantile(scores, 0.99) < 1.3


def test_needs_windows_and_round_trips(fitted: tuple[Scaler, MetricwiseDetector, MahalanobisDetector]) -> None:
    scaler, alone, _ = fitted
    with pytest.raises(NotEnoughData, match="at least 64"):
        MetricwiseDetector().fit(windows(scaler, rows(120)))
    with pytest.raises(RuntimeError, match="not fitted"):
        MetricwiseDetector().score(windows(scaler, rows(120)))
    again = MetricwiseDetector()
    again.restore(*alone.state())
    new = windows(scaler, rows(200, seed=9))
    np.testing.assert_array_equal(again.score(new), alone.score(new))
