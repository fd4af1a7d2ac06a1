"""The ensemble: combining, smoothing and calibrating again, for any members that are left."""

from __future__ import annotations

import numpy as np
import pytest

from service.detectors import budget
from service.detectors.ensemble import COMBINATIONS, Ensemble, EntityState
from service.domain import F64

WEIGHTS = {"a": 0.5, "b": 0.3, "c": 0.2}


def matrix(count: int, seed: int = 0) -> F64:
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((count, 1))
    return (common + rng.standard_normal((count, 3))) * [1.0, 100.0, 0.01] + [0, 500, 3]


def ensemble(count: int = 3000, **options: object) -> Ensemble:
    given = {"window": 50, "stride": 10, "spans": (5, 20, 80), **options}
    return Ensemble(WEIGHTS, matrix(count), np.array([count]), **given)  # type: ignore[arg-type]  # plain test options


def columns(values: F64) -> dict[str, F64]:
    return {name: values[:, at] for at, name in enumerate(WEIGHTS)}


def remembered(made: Ensemble, memory: dict[str, tuple[int, tuple[float, ...], tuple[float, ...]]]) -> dict[str, EntityState]:
    tracker = budget.start(budget.params_for(1.0, 1000, 10))
    return {name: EntityState(row, sums, weights, tracker) for name, (row, sums, weights) in memory.items()}


@pytest.mark.parametrize("combination", sorted(COMBINATIONS))
@pytest.mark.parametrize("left", [("a", "b", "c"), ("a", "c"), ("b",)])
def test_any_surviving_members_keep_their_false_alarm_rate(combination: str, left: tuple[str, ...]) -> None:
    made = ensemble(8000, combination=combination, spans=())
    new = columns(matrix(40_000, seed=1))
    combined = made.combine({name: new[name] for name in left})
    p = made.tail(left).p(combined)
    for level in (0.2, 0.02):
        exceeded = float((p <= level).mean())
        assert exceeded < 1.5 * level
        if combination != "votes":  # votes take few values, so most levels cannot be met exactly
            assert exceeded > level / 1.5


def test_units_do_not_matter_and_weights_do() -> None:
    made = ensemble(spans=())
    calm = {name: np.array([made.member(name).centre]) for name in WEIGHTS}
    rises = []
    for name in WEIGHTS:
        member = made.member(name)
        odd = calm | {name: np.array([member.centre + 4 * member.spread])}
        rises.append(float(made.combine(odd)[0] - made.combine(calm)[0]))
    assert rises[0] > rises[1] > rises[2] > 0
    assert rises[0] / rises[2] == pytest.approx(2.5, rel=0.35)


def test_a_tail_is_worked_out_once_per_subset() -> None:
    made = ensemble()
    assert made.tail(["c", "a"]) is made.tail(["a", "c"])
    assert made.tail(["a"]) is not made.tail(["c"])


def test_smoothing_is_the_mean_of_bias_corrected_exponential_means() -> None:
    made = ensemble(spans=(5, 20))
    values = np.random.default_rng(0).standard_normal(30)
    out = made.smooth(values, ["x"] * 30, np.arange(30) * 10, {}).scores
    expected = []
    for upto in range(1, 31):
        means = []
        for span in (5, 20):
            decay = (1 - 2 / (span + 1)) ** (10.0 * np.arange(upto)[::-1])
            means.append((decay * values[:upto]).sum() / decay.sum())
        expected.append(np.mean(means))
    np.testing.assert_allclose(out, expected)


def test_smoothing_is_the_same_however_the_windows_are_batched() -> None:
    made = ensemble()
    rng = np.random.default_rng(0)
    names = [["x", "y", "z"][at] for at in rng.integers(0, 3, 60)]
    rows = np.arange(60) * 10
    values = rng.standard_normal(60)
    whole = made.smooth(values, names, rows, {})
    states: dict[str, EntityState] = {}
    pieces = []
    for start, stop in ((0, 7), (7, 8), (8, 41), (41, 60)):
        part = made.smooth(values[start:stop], names[start:stop], rows[start:stop], states)
        states = states | remembered(made, dict(part.memory))
        pieces.append(part.scores)
    np.testing.assert_array_equal(np.concatenate(pieces), whole.scores)
    assert {name: (s.row, s.sums, s.weights) for name, s in states.items()} == dict(whole.memory)


def test_a_long_gap_makes_the_past_count_less() -> None:
    made = ensemble(spans=(80,))
    values = np.array([5.0, 0.0])
    near = made.smooth(values, ["x", "x"], np.array([0, 10]), {}).scores[1]
    far = made.smooth(values, ["x", "x"], np.array([0, 2000]), {}).scores[1]
    assert near > 1
    assert far < 1e-6


def test_the_states_given_are_not_changed() -> None:
    made = ensemble(spans=(5, 20, 80))
    first = made.smooth(np.array([1.0]), ["x"], np.array([0]), {})
    states = remembered(made, dict(first.memory))
    before = dict(states)
    made.smooth(np.array([9.0]), ["x"], np.array([10]), states)
    assert states == before


def test_series_are_not_smoothed_into_each_other_when_calibrating() -> None:
    scores = matrix(400)
    scores[200:] += [10, 1000, 0.1]
    apart = Ensemble(WEIGHTS, scores, np.array([200, 200]), window=50, stride=10, spans=(80,))
    joined = Ensemble(WEIGHTS, scores, np.array([400]), window=50, stride=10, spans=(80,))
    at = np.linspace(0, 5, 50)
    assert (apart.trend_tail(list(WEIGHTS)).p(at) != joined.trend_tail(list(WEIGHTS)).p(at)).any()


def test_round_trips_and_takes_other_weights() -> None:
    made = ensemble()
    twin = Ensemble.restored(*made.state())
    new = columns(matrix(100, seed=2))
    np.testing.assert_array_equal(twin.combine(new), made.combine(new))
    np.testing.assert_array_equal(
        twin.tail(["a", "b", "c"]).surprise(twin.combine(new)), made.tail(["a", "b", "c"]).surprise(made.combine(new))
    )
    only = made.reweighted({"c": 1.0, "a": 3.0})
    assert set(only.weights) == {"a", "c"}
    np.testing.assert_allclose(only.combine(new), 0.75 * made.combine({"a": new["a"]}) + 0.25 * made.combine({"c": new["c"]}))
