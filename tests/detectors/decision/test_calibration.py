"""Calibration: probabilities that hold on data it did not see, and stated answers where the data are awkward."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from service.detectors.decision.calibration import LEAST_SCORES, MOST_SURPRISE, STRAIGHT, Calibration, bounded
from service.domain import F64
from service.errors import NotEnoughData


def normal(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(count)


@pytest.mark.parametrize("level", [0.5, 0.1, 0.01, 0.002])
@pytest.mark.parametrize(
    "distribution", [stats.norm(), stats.expon(), stats.t(5), stats.gamma(2)], ids=["normal", "exponential", "t5", "gamma"]
)
def test_a_level_is_exceeded_as_often_as_it_says(distribution: stats.rv_continuous, level: float) -> None:
    seen = distribution.rvs(size=5000, random_state=1)
    new = distribution.rvs(size=200_000, random_state=2)
    exceeded = float((Calibration(seen, 5000).p(new) <= level).mean())
    assert level / 2 < exceeded < level * 2


def test_extrapolates_an_exponential_tail_beyond_its_data() -> None:
    calibration = Calibration(np.random.default_rng(0).exponential(size=20_000), n_eff=500)
    assert calibration.surprise(np.array([-np.log(1e-6)]))[0] == pytest.approx(6, abs=0.7)


def test_a_bounded_tail_is_taken_for_exponential_so_that_nothing_is_impossible() -> None:
    calibration = Calibration(np.random.default_rng(0).uniform(size=5000), 5000)
    assert calibration.shape == 0.0
    assert 0 < np.exp(calibration.log_tail(np.array([1.5])))[0] < 1e-3


def test_heavy_tails_are_seen_as_heavy() -> None:
    assert Calibration(stats.genpareto(0.4).rvs(20_000, random_state=0), 20_000).shape == pytest.approx(0.4, abs=0.15)


def test_p_is_floored_by_the_effective_sample_and_surprise_is_not() -> None:
    calibration = Calibration(normal(2000), n_eff=20)
    assert calibration.floor == 1 / 200
    assert calibration.p(np.array([50.0]))[0] == 1 / 200
    assert calibration.surprise(np.array([50.0]))[0] > 6


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6).map(lambda x: round(x, 3)), min_size=LEAST_SCORES, max_size=200),
    st.lists(st.floats(-2e6, 2e6), min_size=2, max_size=50),
)
def test_surprise_never_falls_as_the_raw_score_rises(seen: list[float], asked: list[float]) -> None:
    calibration = Calibration(np.array(seen), len(seen))
    raw = np.sort(np.array([*asked, *seen]))
    surprise, p = calibration.surprise(raw), calibration.p(raw)
    assert (np.diff(surprise) >= 0).all()
    assert (np.diff(p) <= 0).all()
    assert (p > 0).all()
    assert (p <= 1).all()


# Constants, counts, states, scores near each other and whatever float64 holds.
AWKWARD = st.one_of(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=LEAST_SCORES, max_size=60),
    st.lists(st.sampled_from([0.0, 1e-300, 1.0, 3.0]), min_size=LEAST_SCORES, max_size=60),
    st.floats(allow_nan=False, allow_infinity=False).map(lambda x: [x] * LEAST_SCORES),
)


@settings(max_examples=300)
@given(
    AWKWARD,
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=30),
    st.floats(1.0, 1e6),
)
@pytest.mark.filterwarnings("error")
def test_no_score_is_beyond_the_bound_and_a_stronger_one_is_never_less_surprising(
    seen: list[float], asked: list[float], n_eff: float
) -> None:
    calibration = Calibration(np.array(seen), n_eff)
    raw = np.sort(np.array([*asked, *seen, -1.7e308, 1.7e308]))
    for curve in (calibration.surprise, calibration.decades, calibration.evidence):
        values = curve(raw)
        assert np.isfinite(values).all()
        assert (np.diff(values) >= -1e-12 * np.maximum(values[1:], 1.0)).all()  # interpolation rounds
    surprise = calibration.surprise(raw)
    assert (surprise >= 0).all()
    assert (surprise < MOST_SURPRISE).all()
    assert (calibration.p(raw) >= calibration.floor).all()


@given(st.floats(STRAIGHT, 1e160), st.floats(1.01, 1e6))
def test_what_is_many_decades_out_is_bent_and_more_is_still_visibly_more(decades: float, factor: float) -> None:
    less, more = bounded(np.array([decades, decades * factor]))
    assert less < more < MOST_SURPRISE
    assert more - less > 1e-8  # rounding is 1e-14
    straight = np.linspace(0, STRAIGHT, 50)
    np.testing.assert_array_equal(bounded(straight), straight)


def test_scores_beyond_the_calibration_maximum_do_not_tie() -> None:
    calibration = Calibration(normal(1000), 10)
    beyond = calibration.surprise(np.linspace(2, 40, 2000))
    assert (np.diff(beyond) > 0).all()


def test_evidence_of_few_windows_grows_slower_the_further_out_and_never_ties() -> None:
    raw = np.linspace(2, 400, 2000)
    few, many = Calibration(normal(1000), 3), Calibration(normal(1000), 30_000)
    for calibration in (few, many):
        assert (np.diff(calibration.evidence(raw)) > 0).all()
        assert (calibration.evidence(raw) <= calibration.decades(raw)).all()
    np.testing.assert_allclose(many.evidence(raw[:200]), many.decades(raw[:200]), rtol=0.01)
    assert few.decades(raw)[-1] > 300
    assert few.evidence(raw)[-1] < 10


@pytest.mark.parametrize("known", [3, 10])
def test_evidence_is_the_tail_of_the_next_score_where_the_scale_is_known_from_few(known: int) -> None:
    # Exponential scores whose scale was estimated from a few: the estimated tail alone is exceeded too often.
    rng = np.random.default_rng(0)
    scale = rng.exponential(size=(200_000, known)).mean(axis=1)
    surprise = rng.exponential(size=len(scale)) / scale / np.log(10.0)

    class Estimated(Calibration):
        def __init__(self) -> None:
            self.n_eff = float(known)

        def log_tail(self, raw: F64) -> F64:
            tail: F64 = -raw * np.log(10.0)
            return tail

    assert (surprise >= 3).mean() > 0.002
    assert (Estimated().evidence(surprise) >= 3).mean() == pytest.approx(0.001, rel=0.2)


def test_scores_below_the_calibration_minimum_do_not_tie() -> None:
    calibration = Calibration(normal(1000), 10)
    assert (np.diff(calibration.surprise(np.linspace(-6, 6, 500))) > 0).all()


def test_tied_scores_have_the_probability_of_being_at_least_that() -> None:
    calibration = Calibration(np.repeat([0.0, 1.0, 2.0], [60, 30, 10]), 1000)
    np.testing.assert_allclose(np.exp(calibration.log_tail(np.array([0.0, 1.0]))), [100 / 101, 40 / 101], rtol=1e-9)


def test_constant_scores_make_everything_above_them_as_strange_as_the_data_can_say() -> None:
    calibration = Calibration(np.full(200, 3.0), 2)
    assert calibration.p(np.array([2.0, 3.0])).min() > 0.9
    assert calibration.p(np.array([3.1]))[0] == calibration.floor
    at_zero = Calibration(np.zeros(200), 2)
    assert at_zero.p(np.array([1e-3]))[0] == at_zero.floor


def test_too_few_scores_are_refused_by_number() -> None:
    with pytest.raises(NotEnoughData, match=f"at least {LEAST_SCORES} windows of normal data and got 12"):
        Calibration(normal(12), 1)
    with pytest.raises(ValueError, match="finite"):
        Calibration(np.array([np.nan] * 50), 1)


def test_round_trips_through_json_to_the_bit() -> None:
    calibration = Calibration(stats.t(3).rvs(3000, random_state=0), 30)
    settings, arrays = calibration.state()
    twin = Calibration.restored(json.loads(json.dumps(settings)), arrays)
    raw = np.linspace(-20, 50, 5000)
    np.testing.assert_array_equal(twin.surprise(raw), calibration.surprise(raw))
    np.testing.assert_array_equal(twin.p(raw), calibration.p(raw))
