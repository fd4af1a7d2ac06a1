"""Entities that share a bundle and yet move in their own ways."""

from __future__ import annotations

import numpy as np
import pytest

from service.detectors.features.entity_whitening import AXES, LEAST_WINDOWS, EntityWhitening
from service.detectors.features.scaler import Scaler
from service.detectors.features.windows import Features
from service.detectors.members.mahalanobis import MahalanobisDetector
from service.domain import F32, Series

WINDOW = 30


def machine(kind: int, rows: int = 1500, dims: int = 8, seed: int = 0) -> F32:
    """Two hidden loads, which each kind of machine shows in its own mixture of metrics."""
    rng = np.random.default_rng(seed)
    mixture = np.random.default_rng(kind + 50).standard_normal((2, dims))
    return (rng.standard_normal((rows, 2)) @ mixture + 0.1 * rng.standard_normal((rows, dims))).astype(np.float32)


def shared(kinds: int = 3) -> tuple[Scaler, MahalanobisDetector]:
    """One detector for a machine of each kind, the first of which brought too few rows to be known well."""
    series = [Series(f"m{kind}", 0, machine(kind, rows=200 if kind == 0 else 1500)) for kind in range(kinds)]
    scaler = Scaler().fit(series)
    detector = MahalanobisDetector()
    detector.fit(scaler.windows(series, WINDOW))
    return scaler, detector


def seen(scaler: Scaler, entity: str, rows: F32) -> Features:
    return scaler.windows([Series(entity, 0, rows)], WINDOW)


def without_own(detector: MahalanobisDetector) -> MahalanobisDetector:
    settings, arrays = detector.state()
    twin = MahalanobisDetector()
    twin.restore(settings, {key: value for key, value in arrays.items() if not key.startswith("own/")})
    return twin


def test_a_machine_that_behaves_like_another_kind_stands_out_more_than_by_the_pooled_distance() -> None:
    scaler, detector = shared()

    def separation(one: MahalanobisDetector) -> float:
        usual = one.score(seen(scaler, "m1", machine(1, seed=7)))
        swapped = machine(1, seed=8)
        swapped[200:] = machine(2, seed=9)[200:]  # everything it does now is normal for the other machine
        scores = one.score(seen(scaler, "m1", swapped))[WINDOW + 200 :]
        return float(np.median(scores) / np.quantile(usual, 0.99))

    assert separation(detector) > 1.1 * separation(without_own(detector))


def test_an_entity_not_known_well_is_scored_by_the_pooled_distance() -> None:
    scaler, detector = shared()
    pooled = without_own(detector)
    for entity in ("m0", "never seen"):
        windows = seen(scaler, entity, machine(0, seed=4))
        np.testing.assert_array_equal(detector.score(windows), pooled.score(windows))
    assert (detector.score(seen(scaler, "m1", machine(1))) != pooled.score(seen(scaler, "m1", machine(1)))).all()


def test_mixed_batches_score_as_alone_and_attribution_adds_up() -> None:
    scaler, detector = shared()
    series = [Series(f"m{kind}", 0, machine(kind, rows=200, seed=3)) for kind in range(3)]
    mixed = scaler.windows(series, WINDOW)
    alone = np.concatenate([detector.score(scaler.windows([one], WINDOW)) for one in series])
    np.testing.assert_allclose(detector.score(mixed), alone, rtol=1e-4)
    np.testing.assert_allclose(detector.attribute(mixed).sum(axis=1), detector.score(mixed), rtol=1e-3)


def test_a_bundle_of_one_has_no_use_for_it_and_states_round_trip() -> None:
    alone = MahalanobisDetector()
    alone.fit(Scaler().fit([Series("a", 0, machine(0))]).windows([Series("a", 0, machine(0))], WINDOW))
    assert not any(key.startswith("own/") for key in alone.state()[1])
    scaler, detector = shared()
    again = MahalanobisDetector()
    again.restore(*detector.state())
    windows = seen(scaler, "m2", machine(2, seed=5))
    np.testing.assert_array_equal(again.score(windows), detector.score(windows))
    detector.fit(Scaler().fit([Series("a", 0, machine(0))]).windows([Series("a", 0, machine(0))], WINDOW))
    assert not any(key.startswith("own/") for key in detector.state()[1])  # nothing is left of an earlier fit


def test_the_distance_is_one_per_axis_on_what_it_learned_from() -> None:
    rng = np.random.default_rng(0)
    whitened = (rng.standard_normal((4000, 40)) * np.geomspace(3, 0.3, 40)).astype(np.float32)
    own = EntityWhitening(ridge=0.1)
    own.fit(whitened, np.full(4000, 3))
    squared = np.full(4000, np.nan, np.float32)
    own.squared(whitened, own.slots(np.full(4000, 3)), squared)
    assert 0.6 < np.mean(squared) / 40 < 1.0  # the ridge holds it below one
    np.testing.assert_allclose(squared, np.square(own.deviations(whitened, 0)).sum(axis=1), rtol=1e-3)
    assert own.axes.shape == (1, 40, AXES)


@pytest.mark.parametrize(("count", "width"), [(LEAST_WINDOWS - 1, 40), (1000, AXES)])
def test_too_few_windows_or_axes_leave_it_to_the_pool(count: int, width: int) -> None:
    own = EntityWhitening(ridge=0.1)
    own.fit(np.random.default_rng(0).standard_normal((count, width)).astype(np.float32), np.ones(count, np.int64))
    assert not own.state()
    assert (own.slots(np.ones(5, np.int64)) == -1).all()
