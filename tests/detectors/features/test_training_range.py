"""What was seen, and how far beyond it a row lies: by hand, for several entities, and where there is little to go by."""

from __future__ import annotations

import numpy as np

from service.detectors.features.scaler import Scaler
from service.detectors.features.training_range import MOST_RANGES, TrainingRange
from service.detectors.features.windows import Features, Scales
from service.detectors.members.mahalanobis import MahalanobisDetector
from service.domain import F32, Series
from tests.detectors.features.test_windows import batch


def learned(features: Features) -> TrainingRange:
    seen = TrainingRange()
    seen.fit(features)
    return seen


def single(rows: list[list[float]]) -> Features:
    """Windows of one row each, in the metrics' own units."""
    return Features(np.array(rows, np.float32), np.arange(1, len(rows) + 1), 1)


def of_series(scaler: Scaler, entity: str, rows: F32, window: int = 10) -> Features:
    return scaler.windows([Series(entity, 0, rows)], window)


def test_counts_the_ranges_a_value_lies_outside() -> None:
    seen = learned(single([[0, 10], [4, 30]]))
    found = seen.widths_outside(single([[2, 10], [4, 31], [-2, 50], [12, 0]]))
    np.testing.assert_allclose(found, np.array([[0, 0], [0, 0.05], [0.5, 1], [2, 0.5]]))


def test_a_metric_that_stood_still_is_measured_in_its_scale_and_far_has_an_end() -> None:
    scale = np.array([[5.0, 0.0]], np.float32)
    rows = np.array([[100, 7], [100, 7]], np.float32)
    tables = Scales(np.zeros((1, 2), np.float32), np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0))
    features = Features(rows, np.array([1, 2]), 1, scales=tables)
    seen = learned(features)
    new = Features(np.array([[110, 900], [1e9, 7]], np.float32), np.array([1, 2]), 1, scales=tables)
    np.testing.assert_allclose(
        seen.widths_outside(new), np.array([[2, 0], [MOST_RANGES, 0]])
    )  # the second metric is left out of the scale


def test_rows_that_training_did_not_choose_count_and_rows_after_it_do_not() -> None:
    rows = np.zeros((100, 1), np.float32)
    rows[31], rows[32], rows[80] = 5, -3, 50
    features = Features(rows, np.arange(10, 101), 10).take(np.arange(0, 50, 25))  # windows that end at rows 10 and 35
    seen = learned(features)
    assert (seen.low[0, 0], seen.high[0, 0]) == (-3, 5)


def test_what_is_missing_lies_nowhere() -> None:
    seen = learned(single([[0, np.nan], [1, np.nan]]))
    assert not seen.widths_outside(single([[np.nan, 3], [0.5, np.nan]])).any()


def test_an_entity_known_well_has_a_range_of_its_own_and_a_stranger_everybodys() -> None:
    rng = np.random.default_rng(0)
    small, large = rng.uniform(0, 1, (600, 2)).astype(np.float32), rng.uniform(0, 100, (600, 2)).astype(np.float32)
    series = [Series("small", 0, small), Series("large", 0, large)]
    scaler = Scaler().fit(series)
    seen = learned(scaler.windows(series, 10))
    at_fifty = np.full((10, 2), 50, np.float32)
    assert (seen.widths_outside(of_series(scaler, "small", at_fifty)) > 10).all()
    assert not seen.widths_outside(of_series(scaler, "large", at_fifty)).any()
    assert not seen.widths_outside(of_series(scaler, "stranger", at_fifty)).any()
    assert seen.widths_outside(of_series(scaler, "stranger", 4 * at_fifty)).all()


def test_serving_sees_what_training_sees() -> None:
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((300, 3)).astype(np.float32)
    scaler = Scaler().fit([Series("one", 0, rows)])
    seen = learned(of_series(scaler, "one", rows))
    new = (3 * rng.standard_normal((60, 3))).astype(np.float32)
    whole = seen.widths_outside(of_series(scaler, "one", new))
    assert whole.any()
    cut = np.stack([new[at : at + 10] for at in range(len(new) - 9)])
    np.testing.assert_array_equal(seen.widths_outside(scaler.transform(batch(cut, ("one",) * len(cut)))), whole)


def test_after_a_short_training_a_value_never_seen_stands_out_from_all_that_is_merely_new() -> None:
    rng = np.random.default_rng(2)

    def spiky(rows: int) -> F32:
        values = 0.05 * rng.standard_normal((rows, 12))
        values[rng.random((rows, 12)) < 0.02] += 5  # now and then each metric goes far out, and back
        return values.astype(np.float32)

    detector = MahalanobisDetector(prototypes=1)
    train, new = spiky(400), spiky(2000)
    detector.fit(Features(train, np.arange(100, 401), 100))
    new[1500:1505, 4] = 12
    windows = Features(new, np.arange(100, 2001), 100)
    scores, fault = detector.score(windows), slice(1401, 1406)
    assert scores[fault].min() > 1.5 * scores[:1400].max()
    assert (detector.attribute(windows)[fault].argmax(axis=1) == 4).all()
