"""Each metric's forecast of itself."""

from __future__ import annotations

import numpy as np
import pytest

from service.detectors.features.windows import Features
from service.detectors.members.autoregression import AutoregressionDetector
from service.domain import F32, F64
from service.errors import NotEnoughData

WINDOW = 30


def windows(rows: F32) -> Features:
    return Features(rows, np.arange(WINDOW, len(rows) + 1), WINDOW)


def swinging(rows: int, dims: int = 4, seed: int = 0) -> F32:
    """Noisy sines, each with a period of its own."""
    rng = np.random.default_rng(seed)
    periods = np.linspace(7, 19, dims)
    turns = np.arange(rows)[:, None] * 2 * np.pi / periods + rng.uniform(0, 6, dims)
    return (np.sin(turns) + 0.05 * rng.standard_normal((rows, dims))).astype(np.float32)


def test_scores_equal_those_written_out_with_numpy() -> None:
    train, new, lags, smooth, ridge = swinging(400), swinging(90, seed=1), 3, 8, 2.0
    new[40, 1] += 500.0  # clipped where it enters, and again where it counts
    detector = AutoregressionDetector(lags=lags, smooth=smooth, ridge=ridge)
    detector.fit(windows(train))

    def pairs(series: F32) -> tuple[F64, F64]:
        one = np.clip(series.astype(np.float64), -10, 10)
        back = [one[lags - k : len(one) - k] for k in range(1, lags + 1)]
        return np.stack([*back, np.ones(len(one) - lags)], axis=1), one[lags:]

    misses = []
    for metric in range(train.shape[1]):
        given, now = pairs(train[WINDOW - 1 - lags :, metric])  # the rows that windows end on, and the lags before each
        weights = np.linalg.solve(given.T @ given + ridge * np.eye(lags + 1), given.T @ now)
        unit = max(float(np.sqrt(np.mean((now - given @ weights) ** 2))), 0.05)
        given, now = pairs(new[:, metric])
        misses.append(np.minimum(np.abs(now - given @ weights) / unit, 10.0))
    expected = np.convolve(np.mean(misses, axis=0), np.full(smooth, 1 / smooth), mode="valid")[-(90 - WINDOW + 1) :]
    np.testing.assert_allclose(detector.score(windows(new)), expected, rtol=1e-4)


def test_a_metric_that_keeps_its_range_but_loses_its_rhythm_is_seen_and_named() -> None:
    detector = AutoregressionDetector(smooth=20)
    detector.fit(windows(swinging(1000)))
    new = swinging(300, seed=2)
    new[200:, 2] = np.random.default_rng(3).permutation(new[200:, 2])
    scores = detector.score(windows(new))
    assert scores[195:].min() > scores[:171].max()
    assert detector.attribute(windows(new))[220].argmax() == 2


def test_too_few_windows_are_refused_naming_the_least() -> None:
    with pytest.raises(NotEnoughData, match="64"):
        AutoregressionDetector().fit(windows(swinging(WINDOW + 20)))


def test_a_window_shorter_than_its_past_is_enough() -> None:
    rows = swinging(200)
    short = Features(rows, np.arange(4, len(rows) + 1), 4)
    detector = AutoregressionDetector()
    detector.fit(short)
    assert np.isfinite(detector.score(short)).all()


def test_windows_of_other_metrics_are_refused() -> None:
    detector = AutoregressionDetector()
    detector.fit(windows(swinging(200)))
    with pytest.raises(RuntimeError, match="4 metrics and is asked for 3"):
        detector.score(windows(swinging(200, dims=3)))
