"""The alert budget: the level follows what is normal, alarms stay near what was accepted, whatever the stride."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.detectors.decision import alert_budget
from service.domain import F64

QUIET, ABOVE, SPENT = alert_budget.REASONS


def plainly(surprises: F64, rows: list[int], rate: float, stride: int) -> list[tuple[float, bool, float]]:
    """The rule as the decision record words it, one window at a time, for budgets of at least one row in a thousand."""
    log_level, tokens, newest, log_common = math.log(-math.log10(rate * stride)), 1.0, None, 0.0
    out = []
    for row, surprise in zip(rows, surprises, strict=True):
        elapsed = stride if newest is None else row - newest
        newest = row
        tokens = min(tokens + 1.9 * rate * elapsed, max(1.0, 5000 * rate))
        onset = surprise > math.exp(log_level)
        called = onset and (tokens >= 1 or (tokens >= 0 and surprise >= math.exp(log_level) + 1))
        out.append((math.exp(log_level), called, math.exp(log_common)))
        tokens -= called
        log_level += 0.4 * (onset - 1.6 * rate * min(elapsed, 10 * stride))
        log_level = max(log_level, min(0.0, math.log(-math.log10(rate * stride) / 2)))
        log_common += 0.01 * min(elapsed, 10 * stride) * ((surprise > math.exp(log_common)) - 0.1)
        log_common = max(log_common, math.log(0.1))
    return out


@settings(deadline=None)  # the first call compiles the kernel
@given(
    seed=st.integers(0, 10_000),
    stride=st.sampled_from([1, 10]),
    rate=st.sampled_from([0.001, 0.004]),
    skips=st.lists(st.integers(1, 30), min_size=5, max_size=60),
)
def test_every_form_follows_the_rule_as_worded(seed: int, stride: int, rate: float, skips: list[int]) -> None:
    surprises = np.random.default_rng(seed).exponential(2.0, len(skips))
    rows = np.cumsum(np.array(skips) * stride)
    params = alert_budget.params_at(rate, stride)
    expected = plainly(surprises, rows.tolist(), rate, stride)

    state, singly = alert_budget.start(params), []
    for row, surprise in zip(rows.tolist(), surprises.tolist(), strict=True):
        state, decision = alert_budget.step(state, row, surprise, params)
        singly.append(decision)
    after, together = alert_budget.steps([alert_budget.start(params)], np.zeros(len(rows), np.int64), rows, surprises, params)

    assert after == [state]
    assert [together[at] for at in range(len(rows))] == singly
    assert [one.is_anomaly for one in singly] == [flag for _, flag, _ in expected]
    np.testing.assert_allclose([one.level for one in singly], [level for level, _, _ in expected])
    np.testing.assert_allclose([one.common for one in singly], [common for _, _, common in expected])


def test_entities_do_not_touch_each_other() -> None:
    params = alert_budget.params_at(0.01)
    rng = np.random.default_rng(1)
    surprises, rows = rng.exponential(0.5, 400), np.repeat(np.arange(200), 2)
    slots = np.tile([0, 1], 200).astype(np.int64)
    both, mixed = alert_budget.steps([alert_budget.start(params)] * 2, slots, rows, surprises, params)
    for slot in (0, 1):
        own = slots == slot
        alone, single = alert_budget.steps([alert_budget.start(params)], np.zeros(200, np.int64), rows[own], surprises[own], params)
        assert alone == [both[slot]]
        assert np.array_equal(single.is_anomaly, mixed.is_anomaly[own])


@pytest.mark.parametrize("stride", [1, 10])
@pytest.mark.parametrize("rate", [0.01, 0.001, 1 / 10_080])
@pytest.mark.parametrize("drift", [0.0, 1.5])
def test_alarms_on_normal_data_stay_within_twice_the_budget(rate: float, stride: int, drift: float) -> None:
    # A perfectly calibrated surprise is exponential; drift lifts all of it, which breaks any static threshold.
    windows = 400_000 // stride
    surprises = np.random.default_rng(7).exponential(1 / math.log(10), windows) * (1 + drift)
    params = alert_budget.params_at(rate, stride)
    rows = np.arange(1, windows + 1) * stride
    _, decisions = alert_budget.steps([alert_budget.start(params)], np.zeros(windows, np.int64), rows, surprises, params)
    accepted = rate * windows * stride
    assert decisions.is_anomaly.sum() <= 2 * accepted
    if rate >= 0.001:
        assert decisions.is_anomaly.sum() >= accepted / 2


def test_a_lasting_shift_is_learnt_and_forgotten_again() -> None:
    params = alert_budget.params_at(0.01)
    rng = np.random.default_rng(3)
    surprises = np.concatenate([rng.exponential(0.4, 2000), 8 + rng.exponential(0.4, 3000), rng.exponential(0.4, 6000)])
    rows = np.arange(len(surprises))
    _, decisions = alert_budget.steps([alert_budget.start(params)], np.zeros(len(rows), np.int64), rows, surprises, params)
    assert decisions.is_anomaly[2000]  # the first row of the shift is an onset
    assert decisions.level[4900] > 7  # and later it is what is normal: the tracker does not freeze
    assert decisions.level[-1] < 3
    assert decisions.shift[0] == 0


def test_an_empty_bucket_suppresses_and_says_so_while_the_level_learns() -> None:
    params = alert_budget.params_at(1e-4)
    level = params.tracked_level + params.extrapolation
    state, first = alert_budget.step(alert_budget.start(params), 1, level + 0.5, params)
    again, second = alert_budget.step(state, 2, math.exp(state.log_level) + params.extrapolation + 0.9, params)
    assert (first.reason, second.reason) == (ABOVE, SPENT)
    assert (first.is_anomaly, second.is_anomaly) == (True, False)
    assert again.log_level > state.log_level
    _, third = alert_budget.step(state, 3, 0.1, params)
    assert third.reason == QUIET


def test_a_false_alarm_does_not_hide_the_fault_after_it_but_a_second_one_waits() -> None:
    params = alert_budget.params_at(1e-4)
    after, chance = alert_budget.step(alert_budget.start(params), 1, params.tracked_level + params.extrapolation + 0.5, params)
    owing, fault = alert_budget.step(after, 2, 30.0, params)
    assert (chance.reason, fault.reason) == (ABOVE, ABOVE)
    assert after.tokens == pytest.approx(0.0, abs=1e-3)
    assert owing.tokens == pytest.approx(-1.0, abs=1e-3)
    paid_back = math.ceil(1 / (alert_budget.REFILL * 1e-4))
    for calm, reason in ((paid_back - 50, SPENT), (paid_back + 50, ABOVE)):
        later, _ = alert_budget.step(owing, 2 + calm, 0.1, params)
        assert alert_budget.step(later, 3 + calm, 30.0, params)[1].reason == reason


def test_a_growing_fault_does_not_push_the_level_of_a_rare_budget_ahead_of_itself() -> None:
    params = alert_budget.params_for(1 / 7, 60_000, 1)  # one a week on minute data
    quiet = np.random.default_rng(5).exponential(0.2, 300)
    surprises = np.concatenate([quiet, np.linspace(1, 10, 10)])  # ten windows from nothing to far beyond the level
    _, decisions = alert_budget.steps([alert_budget.start(params)], np.zeros(310, np.int64), np.arange(310), surprises, params)
    assert not decisions.is_anomaly[:300].any()
    assert decisions.is_anomaly[300:].sum() == 1


def test_a_gap_nobody_saw_does_not_melt_the_level() -> None:
    params = alert_budget.params_at(0.01, stride=10)
    state, _ = alert_budget.step(alert_budget.start(params), 10, 9.0, params)
    _, short = alert_budget.step(alert_budget.step(state, 120, 0.0, params)[0], 130, 0.0, params)
    _, long = alert_budget.step(alert_budget.step(state, 10_000_000, 0.0, params)[0], 10_000_010, 0.0, params)
    assert long.level == pytest.approx(short.level, rel=0.1)


def test_the_budget_people_state_becomes_a_rate_and_a_level() -> None:
    daily = alert_budget.params_for(1.0, 60_000, 10)
    assert daily.rate == pytest.approx(1 / 1440)
    assert daily.tracked_level + daily.extrapolation == pytest.approx(-math.log10(10 / 1440))  # one window in 144
    fast = alert_budget.params_for(1.0, 50, 10)  # 20 rows a second: far beyond what can be followed, so extrapolated
    assert fast.tracked == alert_budget.RAREST_TRACKED
    assert alert_budget.params_for(1e9, 1000, 1).rate == alert_budget.MOST_OFTEN
    _, decision = alert_budget.step(alert_budget.start(fast), 0, 1.0, fast)
    assert decision.level == pytest.approx(-math.log10(fast.rate * 10))
