"""What every detector in ``app.DETECTORS`` promises, whatever its method."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import pytest

from service.app import DETECTORS, make_detector
from service.detectors.base import Detector
from service.detectors.features.scaler import Scaler
from service.detectors.features.windows import Features
from service.domain import F32, Series
from service.errors import NotEnoughData

WINDOW = 30
QUICK: dict[str, Any] = {"epochs": 4, "patience": 4}  # for the families that train in epochs

# These score what has just begun: a fault that has lasted longer than half a window no longer counts.
ONSETS_ONLY = {"departure"}

every_detector = pytest.mark.parametrize("name", sorted(DETECTORS))


def quick(name: str, **options: Any) -> Detector:
    takes = getattr(make_detector(name, {}), "takes", ())
    return make_detector(name, {**{key: value for key, value in QUICK.items() if key in takes}, **options})


def rows(count: int, dims: int = 6, seed: int = 0) -> F32:
    """Correlated metrics with a daily swing, in odd units."""
    rng = np.random.default_rng(seed)
    swing = np.sin(np.arange(count)[:, None] * 2 * np.pi / 200)
    hidden = rng.standard_normal((count, 2)) + swing
    mixing = np.random.default_rng(99).standard_normal((2, dims))
    values = hidden @ mixing + 0.3 * rng.standard_normal((count, dims))
    return (values * np.geomspace(0.01, 1000, dims) + 5).astype(np.float32)


def features(values: F32, scaler: Scaler | None = None) -> Features:
    series = [Series("a", 0, values)]
    return (scaler or Scaler().fit(series)).windows(series, WINDOW)


def shape_of(values: F32) -> Scaler:
    return Scaler().fit([Series("a", 0, values)])


@cache
def fitted(name: str) -> tuple[Detector, Scaler]:
    detector, values = quick(name), rows(700)
    scaler = shape_of(values)
    detector.fit(features(values, scaler))
    return detector, scaler


@every_detector
def test_gives_one_finite_float64_per_window_and_a_share_per_metric(name: str) -> None:
    detector, scaler = fitted(name)
    seen = features(rows(130, seed=1), scaler)
    scores, shares = detector.score(seen), detector.attribute(seen)
    assert scores.shape == (101,)
    assert scores.dtype == np.float64
    assert shares.shape == (101, 6)
    assert shares.dtype == np.float64
    assert np.isfinite(scores).all()
    assert np.isfinite(shares).all()
    assert (shares >= 0).all()
    assert len(np.unique(scores)) > 50  # it looks at what it is given


@every_detector
def test_is_named_as_configured(name: str) -> None:
    assert quick(name).name == name


@every_detector
def test_scores_the_same_each_time_and_in_many_threads(name: str) -> None:
    detector, scaler = fitted(name)
    seen = features(rows(200, seed=2), scaler)
    once = detector.score(seen)
    with ThreadPoolExecutor(4) as pool:
        for again in pool.map(detector.score, [seen] * 8):
            np.testing.assert_array_equal(again, once)


@every_detector
def test_the_same_seed_learns_the_same(name: str) -> None:
    detector, scaler = fitted(name)
    twin = quick(name)
    twin.fit(features(rows(700), scaler))
    seen = features(rows(130, seed=1), scaler)
    np.testing.assert_array_equal(twin.score(seen), detector.score(seen))


@every_detector
def test_a_batch_of_one_scores_like_a_batch_of_many(name: str) -> None:
    detector, scaler = fitted(name)
    seen = features(rows(300, seed=3), scaler)
    together = detector.score(seen)
    alone = np.concatenate([detector.score(seen.take(slice(at, at + 1))) for at in range(0, len(seen), 17)])
    np.testing.assert_allclose(alone, together[::17], rtol=1e-5, atol=1e-5)


@every_detector
def test_scoring_learns_nothing_and_changes_nothing(name: str) -> None:
    detector, scaler = fitted(name)
    seen = features(rows(130, seed=1), scaler)
    before, mean = detector.score(seen), seen.mean(5).copy()
    detector.score(features(rows(130, seed=4) * 100, scaler))
    detector.attribute(seen)
    np.testing.assert_array_equal(detector.score(seen), before)
    np.testing.assert_array_equal(seen.mean(5), mean)


@every_detector
def test_a_planted_fault_outscores_normal_windows_and_is_attributed_to_its_metric(name: str) -> None:
    detector, scaler = fitted(name)
    values = rows(400, seed=5)
    spread = np.median(np.abs(values - np.median(values, axis=0)), axis=0)
    values[300:, 4] += 8 * spread[4]
    seen = features(values, scaler)
    scores = detector.score(seen)
    begun = 300 - WINDOW + 1  # the window whose newest row is the fault's first
    while_new = slice(begun, begun + WINDOW // 2), slice(begun + 5, begun + WINDOW // 2)
    faulty, attributed = while_new if name in ONSETS_ONLY else (slice(290, None), slice(300, None))
    assert scores[faulty].mean() > np.quantile(scores[:250], 0.99)
    assert (detector.attribute(seen)[attributed].argmax(axis=1) == 4).mean() > 0.9


@every_detector
def test_survives_a_round_trip_of_its_state_to_the_bit(name: str) -> None:
    detector, scaler = fitted(name)
    settings, arrays = detector.state()
    twin = quick(name)
    twin.restore(settings, {key: np.array(value) for key, value in arrays.items()})
    seen = features(rows(200, seed=6), scaler)
    np.testing.assert_array_equal(twin.score(seen), detector.score(seen))
    np.testing.assert_array_equal(twin.attribute(seen), detector.attribute(seen))


@every_detector
def test_its_state_is_json_and_plain_arrays(name: str) -> None:
    settings, arrays = fitted(name)[0].state()
    json.dumps(settings, allow_nan=False)
    assert all(value.dtype.kind in "fiub" for value in arrays.values())


@every_detector
def test_refuses_to_score_before_it_is_fitted(name: str) -> None:
    with pytest.raises(RuntimeError, match="fitted"):
        quick(name).score(features(rows(60)))


@every_detector
def test_refuses_windows_with_other_metrics(name: str) -> None:
    with pytest.raises((RuntimeError, ValueError)):
        fitted(name)[0].score(features(rows(60, dims=4)))


@every_detector
def test_names_the_least_it_needs(name: str) -> None:
    with pytest.raises(NotEnoughData, match=r"at least \d+") as refused:
        quick(name).fit(features(rows(WINDOW + 5)))
    assert refused.value.hint


@every_detector
@pytest.mark.parametrize("dims", [1, 2])
def test_takes_very_few_metrics(name: str, dims: int) -> None:
    detector = quick(name)
    seen = features(rows(400, dims=dims))
    detector.fit(seen)
    assert np.isfinite(detector.score(seen)).all()
    assert detector.attribute(seen).shape == (len(seen), dims)


@every_detector
def test_takes_500_metrics(name: str) -> None:
    detector = quick(name, **({"epochs": 1} if "epochs" in getattr(quick(name), "takes", ()) else {}))
    seen = features(rows(260, dims=500))
    detector.fit(seen)
    assert np.isfinite(detector.score(seen)).all()
    assert detector.attribute(seen.take(slice(0, 3))).shape == (3, 500)


@every_detector
def test_survives_constant_columns_and_a_change_of_one(name: str) -> None:
    values = rows(500)
    values[:, 2], values[:, 3] = 0.0, 1e9
    scaler = shape_of(values)
    detector = quick(name)
    detector.fit(features(values, scaler))
    calm = detector.score(features(values, scaler))
    values[:, 2] = 1e6
    changed = detector.score(features(values, scaler))
    assert np.isfinite(calm).all()
    assert np.isfinite(changed).all()
    assert changed.mean() > calm.mean()


@every_detector
def test_survives_a_series_that_never_moves(name: str) -> None:
    detector = quick(name)
    seen = features(np.full((300, 4), 3.5, np.float32))
    detector.fit(seen)
    assert np.isfinite(detector.score(seen)).all()
    assert np.isfinite(detector.attribute(seen)).all()


@every_detector
def test_survives_missing_values(name: str) -> None:
    values = rows(600)
    values[np.random.default_rng(0).random(values.shape) < 0.2] = np.nan
    values[:, 5] = np.nan  # a metric without values
    values[:100, 1] = np.nan  # and one that came late
    detector = quick(name)
    seen = features(values)
    detector.fit(seen)
    assert np.isfinite(detector.score(seen)).all()
    assert np.isfinite(detector.attribute(seen)).all()
