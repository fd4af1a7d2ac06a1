"""The ensemble: combining and calibrating again, for any members that are left."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.detectors.decision.calibration import MOST_SURPRISE
from service.detectors.decision.ensemble import COMBINATIONS, Ensemble
from service.domain import F64

WEIGHTS = {"a": 0.5, "b": 0.3, "c": 0.2}


def matrix(count: int, seed: int = 0) -> F64:
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((count, 1))
    return (common + rng.standard_normal((count, 3))) * [1.0, 100.0, 0.01] + [0, 500, 3]


def ensemble(count: int = 3000, combination: str = "tail") -> Ensemble:
    return Ensemble(WEIGHTS, matrix(count), count / 50, combination=combination)


def with_an_override(count: int = 4000, decades: float = 1.0) -> Ensemble:
    return Ensemble(WEIGHTS | {"c": 0.0}, matrix(count), count / 50, overrides_by_decades={"c": decades})


def columns(values: F64) -> dict[str, F64]:
    return {name: values[:, at] for at, name in enumerate(WEIGHTS)}


@pytest.mark.parametrize("combination", sorted(COMBINATIONS))
@pytest.mark.parametrize("left", [("a", "b", "c"), ("a", "c"), ("b",)])
def test_any_surviving_members_keep_their_false_alarm_rate(combination: str, left: tuple[str, ...]) -> None:
    made = ensemble(8000, combination=combination)
    new = columns(matrix(40_000, seed=1))
    combined = made.combine({name: new[name] for name in left})
    p = made.tail(left).p(combined)
    for level in (0.2, 0.02):
        exceeded = float((p <= level).mean())
        assert exceeded < 1.5 * level
        if combination != "votes":  # votes take few values, so most levels cannot be met exactly
            assert exceeded > level / 1.5


ANY = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=150, deadline=None)
@given(
    constant=st.lists(st.sampled_from([0.0, 1.0, 1e-12, 1e300]), min_size=3, max_size=3),
    moves=st.booleans(),
    raw=st.tuples(ANY, ANY, ANY),
    more=st.lists(st.floats(0.0, 1e308), min_size=3, max_size=3),
    combination=st.sampled_from(sorted(COMBINATIONS)),
    overrides=st.booleans(),
)
@pytest.mark.filterwarnings("error")
def test_no_scores_of_any_members_are_beyond_the_bound_and_stronger_ones_are_never_less_surprising(
    constant: list[float], moves: bool, raw: tuple[float, ...], more: list[float], combination: str, overrides: bool
) -> None:
    scores = np.tile(constant, (40, 1)) + (matrix(40) if moves else 0.0)
    made = Ensemble(
        WEIGHTS | ({"c": 0.0} if overrides else {}),
        scores,
        4.0,
        combination=combination,
        overrides_by_decades={"c": 1.0} if overrides else None,
    )
    stronger = [min(one + change, 1.7e308) for one, change in zip(raw, more, strict=True)]
    combined = made.combine(columns(np.array([raw, stronger])))
    assert np.isfinite(combined).all()
    less, greater = made.tail(list(WEIGHTS)).surprise(combined)
    assert 0 <= less <= greater + 1e-12
    assert greater < MOST_SURPRISE


def test_units_do_not_matter_and_weights_do() -> None:
    made = ensemble()
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


def test_a_member_overrides_the_others_only_where_its_evidence_is_so_much_stronger() -> None:
    made, others = with_an_override(), ensemble(4000).reweighted({"a": 0.5, "b": 0.3})
    calm = {"a": np.zeros(4), "b": np.full(4, 500.0)}
    overriding = made.member("c").calibration
    raw = calm | {"c": np.array([3.0, 3.01, 3.05, 3.2])}
    without = others.tail(["a", "b"]).surprise(others.combine(calm))
    combined = made.combine(raw)
    np.testing.assert_allclose(combined, np.maximum(without, overriding.evidence(raw["c"]) - 1.0))
    assert combined[0] == without[0]
    assert combined[3] > without[3] + 1


def test_the_false_alarm_rate_holds_with_an_override_and_for_any_survivors() -> None:
    made, new = with_an_override(8000), columns(matrix(40_000, seed=1))
    for left in (("a", "b", "c"), ("a", "c"), ("c",), ("a", "b")):
        p = made.tail(left).p(made.combine({name: new[name] for name in left}))
        for level in (0.2, 0.02):
            assert float((p <= level).mean()) == pytest.approx(level, rel=0.35)


def test_an_override_is_stored_and_is_a_member_like_the_others_when_weights_are_given() -> None:
    made, raw = with_an_override(), columns(matrix(50, seed=3))
    again = Ensemble.restored(*made.state())
    np.testing.assert_array_equal(again.combine(raw), made.combine(raw))
    np.testing.assert_array_equal(made.reweighted(WEIGHTS).combine(raw), ensemble(4000).combine(raw))
