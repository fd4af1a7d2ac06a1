"""The alert budget: alarms stay near the accepted number, an incident counts once, and the fault after it is heard."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.detectors.decision import alert_budget, budget_params
from service.detectors.decision.alert_budget import AIM, LASTING, STEP
from service.detectors.decision.calibration import MOST_SURPRISE, Calibration
from service.domain import F64

WITHIN, ONSET, STILL_ABOVE = alert_budget.REASONS
DAY = 1440  # rows, at one a minute


def plainly(surprises: F64, rows: list[int], rate: float, stride: int) -> list[tuple[float, str]]:
    """Level and reason of each window, by the rule as the module's docstring words it, one window at a time."""
    start = -math.log10(rate * stride)
    level = base = start
    frozen: float | None = None
    newest: int | None = None
    onset = quiet = counted = 0
    peak = 0.0
    out: list[tuple[float, str]] = []
    for row, surprise in zip(rows, surprises.tolist(), strict=True):
        elapsed = stride if newest is None else row - newest
        passed = min(elapsed, 10 * stride)
        newest = row
        if frozen is not None and elapsed > 10 * stride:
            level, base, frozen = frozen + STEP, base + LASTING * STEP, None
        if frozen is None:
            fall = STEP * AIM * rate * passed
            base = max(base - LASTING * fall, min(1.0, start / 2))
            level -= fall
            if level > base:
                level = base + (level - base) / 2 ** (passed / (2 * DAY))
            level = max(level, min(1.0, start / 2))
            out.append((level, ONSET if surprise > level else WITHIN))
            if surprise > level:
                frozen, onset, counted, quiet, peak = level, row, row, 0, surprise
            continue
        out.append((frozen, STILL_ABOVE if surprise > frozen else WITHIN))
        peak = max(surprise, peak - passed / DAY)
        if surprise > frozen:
            quiet = 0
        elif row - counted >= stride:
            quiet += 1
        if row - counted >= stride:
            counted = row
        if row - onset >= DAY:
            level = base = max(frozen + STEP, peak)
            frozen = None
        elif quiet == 3:
            level, base, frozen = frozen + STEP, base + LASTING * STEP, None
    return out


@settings(deadline=None)  # the first call compiles the kernel
@given(
    seed=st.integers(0, 10_000),
    stride=st.sampled_from([1, 10]),
    rate=st.sampled_from([0.0001, 0.0005, 0.0015]),
    skips=st.lists(st.integers(1, 15), min_size=5, max_size=200),
    scale=st.sampled_from([0.3, 2.0, 6.0]),
)
def test_every_form_follows_the_rule_as_worded(seed: int, stride: int, rate: float, skips: list[int], scale: float) -> None:
    surprises = np.random.default_rng(seed).exponential(scale, len(skips))
    rows = np.cumsum(np.array(skips) * stride)
    params = budget_params.params_at(rate, stride)
    expected = plainly(surprises, rows.tolist(), rate, stride)

    state, singly = alert_budget.start(params), []
    for row, surprise in zip(rows.tolist(), surprises.tolist(), strict=True):
        state, decision = alert_budget.step(state, row, surprise, params)
        singly.append(decision)
    after, together = alert_budget.steps([alert_budget.start(params)], np.zeros(len(rows), np.int64), rows, surprises, params)

    assert after == [state]
    assert [together[at] for at in range(len(rows))] == singly
    assert [one.reason for one in singly] == [reason for _, reason in expected]
    np.testing.assert_allclose([one.level for one in singly], [level for level, _ in expected])
    assert [one.is_onset for one in singly] == [reason == ONSET for _, reason in expected]
    assert [one.is_anomaly for one in singly] == [reason != WITHIN for _, reason in expected]


def test_entities_do_not_touch_each_other() -> None:
    params = budget_params.params_at(0.01)
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
@pytest.mark.parametrize("drift", [0.0, 0.5])
def test_alarms_on_normal_data_stay_within_twice_the_budget(rate: float, stride: int, drift: float) -> None:
    # A perfectly calibrated surprise is exponential; drift lifts all of it, which breaks any static threshold.
    windows = 400_000 // stride
    surprises = np.random.default_rng(7).exponential(1 / math.log(10), windows) * (1 + drift)
    params = budget_params.params_at(rate, stride)
    rows = np.arange(1, windows + 1) * stride
    _, decisions = alert_budget.steps([alert_budget.start(params)], np.zeros(windows, np.int64), rows, surprises, params)
    accepted = rate * windows * stride
    assert decisions.is_onset.sum() <= 2 * accepted + 2 * math.sqrt(2 * accepted)  # and what chance adds to it
    if rate >= 0.001:
        assert decisions.is_onset.sum() >= accepted / 4


def decide(surprises: F64, params: budget_params.BudgetParams) -> alert_budget.BudgetDecisions:
    rows = np.arange(1, len(surprises) + 1) * params.stride
    return alert_budget.steps([alert_budget.start(params)], np.zeros(len(rows), np.int64), rows, surprises, params)[1]


def test_an_incident_counts_once_and_leaves_one_step_behind_however_long_and_strong_it_is() -> None:
    params = budget_params.params_for(1.0, 60_000, 10)
    quiet = np.full(20, 0.3)
    short, long = (decide(np.concatenate([quiet, fault, quiet]), params) for fault in (np.full(1, 3.0), np.full(100, 300.0)))
    assert short.is_onset.sum() == long.is_onset.sum() == 1
    assert long.is_anomaly.sum() == 100
    assert short.level[-1] < params.start + STEP
    assert long.level[-1] == pytest.approx(short.level[-1], abs=0.02)  # the longer one has fallen a little longer


def test_the_fault_after_an_incident_is_as_audible_as_the_first() -> None:
    """Twelve equal bouts an hour apart are twelve onsets; and one of 30 sigma hides none of a tenth of it."""
    params = budget_params.params_for(1.0, 60_000, 10)
    bout, hour = np.full(6, 17.7), np.full(54, 0.5)
    assert decide(np.concatenate([np.full(20, 0.5), *[bout, hour] * 12]), params).is_onset.sum() == 12
    after = decide(np.concatenate([np.full(20, 0.5), np.full(60, 300.0), np.full(180, 0.5), np.full(6, 3.5)]), params)
    assert after.is_onset[-6]


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0.0, 400.0), st.integers(1, 300)), max_size=40))
def test_a_level_can_always_be_exceeded(bouts: list[tuple[float, int]]) -> None:
    """Whatever came before, what lasts less than a day lifts the level by one step each time."""
    params = budget_params.params_for(1.0, 60_000, 1)
    surprises = np.concatenate([np.full(20, 0.3), *(np.concatenate([np.full(n, s), np.full(5, 0.3)]) for s, n in bouts)])
    decisions = decide(surprises, params)
    assert decisions.level.max() <= params.start + STEP * len(bouts) + 1e-9


def test_after_a_metric_that_never_moved_has_begun_to_move_the_entity_is_not_deaf() -> None:
    """Its calibration is a constant: unbounded, each window was millions of decades out, and the level went there for good."""
    calibration = Calibration(np.zeros(500), 4.0)
    raw = np.r_[np.zeros(DAY), 5.0 + np.random.default_rng(0).exponential(1.0, 60 * DAY)]
    surprises, rows = calibration.surprise(raw)[9::10], np.arange(len(raw))[9::10]
    params = budget_params.params_for(1.0, 60_000, 10, floor_p=calibration.floor)
    _, decided = alert_budget.steps([alert_budget.start(params)], np.zeros(len(rows), np.int64), rows, surprises, params)
    assert decided.level.max() <= MOST_SURPRISE + STEP
    told = decided.is_onset[rows > 10 * DAY].sum() / 51  # a day
    assert 0.5 < told < 2.0


def test_only_what_lasts_is_accepted_as_the_new_normal_and_it_is_forgotten_again() -> None:
    params = budget_params.params_for(1.0, 60_000, 1)
    rng = np.random.default_rng(3)
    calm, shifted = rng.exponential(0.3, 2 * DAY), 8 + rng.exponential(0.2, 3 * DAY)
    decisions = decide(np.concatenate([np.minimum(calm, 2.0), shifted]), params)
    at = 2 * DAY
    assert decisions.is_onset[at]
    assert not decisions.is_onset[at + 1 : at + DAY].any()
    assert decisions.level[at + DAY - 2] == decisions.level[at]  # open: as at the onset
    assert decisions.level[at + DAY + 2] > 8  # accepted
    assert decisions.is_onset[at + DAY + 2 :].sum() <= 12


def test_a_budget_beyond_what_calibration_supports_starts_just_beyond_it() -> None:
    rare = budget_params.params_for(0.001, 10_000, 10, floor_p=1e-3)
    assert rare.start == pytest.approx(3.0 + budget_params.BEYOND_SUPPORT)
    assert budget_params.params_for(1.0, 60_000, 10, floor_p=1e-6).start == pytest.approx(-math.log10(10 / 1440))


def test_with_a_budget_of_an_alarm_in_a_few_windows_each_window_counts_by_itself() -> None:
    decisions = decide(np.array([0.5, 9.0, 9.0, 9.0, 0.5]), budget_params.params_at(0.01))
    assert decisions.is_onset.tolist() == [False, True, True, True, False]
    assert decisions.level[2] / decisions.level[1] == pytest.approx(math.exp(0.6), rel=0.02)


def test_a_gap_without_scores_does_not_lower_the_level() -> None:
    params = budget_params.params_at(0.01, stride=10)
    state, _ = alert_budget.step(alert_budget.start(params), 10, 9.0, params)
    _, short = alert_budget.step(alert_budget.step(state, 120, 0.0, params)[0], 130, 0.0, params)
    _, long = alert_budget.step(alert_budget.step(state, 10_000_000, 0.0, params)[0], 10_000_010, 0.0, params)
    assert long.level == pytest.approx(short.level, rel=0.1)


def test_the_budget_people_state_becomes_a_rate_and_a_level() -> None:
    daily = budget_params.params_for(1.0, 60_000, 10)
    assert daily.rate == pytest.approx(1 / 1440)
    assert daily.start == pytest.approx(-math.log10(10 / 1440))  # one window in 144
    assert budget_params.params_for(1e9, 1000, 1).rate == budget_params.MOST_OFTEN


def test_a_state_of_the_version_before_keeps_its_row_and_starts_at_the_calibrated_level() -> None:
    params = budget_params.params_for(1.0, 60_000, 10)
    former = msgspec.msgpack.decode(msgspec.msgpack.encode([0.5, 0.25, 1230, 0.1]), type=alert_budget.BudgetState)
    now = alert_budget.current(former, params)
    assert (now.level, now.row) == (params.start, 1230)
    assert alert_budget.current(now, params) is now


def test_a_severity_begins_above_the_level_and_later_after_it_was_reached() -> None:
    params = budget_params.params_for(1.0, 60_000, 10)
    quiet = np.full(20, 0.3)
    loud = params.start + params.critical.start + 1
    decisions = decide(np.concatenate([quiet, [loud], quiet, [loud], quiet]), params)
    assert decisions.warning[0] == pytest.approx(params.start + params.warning.start, abs=0.01)
    assert decisions.critical[0] == pytest.approx(params.start + params.critical.start, abs=0.01)
    warning, critical = decisions.warning - decisions.level, decisions.critical - decisions.level
    for margin in (warning, critical):
        assert margin[20] == margin[22] == pytest.approx(margin[0], abs=0.01)  # frozen while the excursion lasts
        assert margin[30] == pytest.approx(margin[0] + STEP, abs=0.01)
        assert margin[-1] == pytest.approx(margin[0] + 2 * STEP, abs=0.02)


def test_what_only_warned_does_not_move_where_critical_begins() -> None:
    params = budget_params.params_for(1.0, 60_000, 10)
    quiet = np.full(20, 0.3)
    decisions = decide(np.concatenate([quiet, [params.start + params.warning.start + 0.3], quiet]), params)
    assert (decisions.warning - decisions.level)[-1] > params.warning.start + 0.5 * STEP
    assert (decisions.critical - decisions.level)[-1] <= params.critical.start


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0.0, 400.0), st.integers(1, 300)), max_size=40))
def test_severities_stay_in_order_and_above_what_calibration_says(bouts: list[tuple[float, int]]) -> None:
    params = budget_params.params_for(1.0, 60_000, 1)
    surprises = np.concatenate([np.full(20, 0.3), *(np.concatenate([np.full(n, s), np.full(5, 0.3)]) for s, n in bouts)])
    decisions = decide(surprises, params)
    assert (decisions.warning >= decisions.level + params.warning.least - 1e-9).all()
    assert (decisions.critical >= decisions.warning + budget_params.LEAST_MARGIN - 1e-9).all()


def test_a_rarer_budget_of_criticals_lies_as_many_decades_further_out() -> None:
    monthly, yearly = (
        budget_params.params_for(1.0, 60_000, 10, severe_per_day=(1 / 7, rate)).critical.start for rate in (1 / 30, 1 / 300)
    )
    assert yearly == pytest.approx(monthly + 1)


def test_a_state_of_format_2_keeps_its_level_and_gets_severities() -> None:
    params = budget_params.params_for(1.0, 60_000, 10)
    stored = msgspec.structs.replace(alert_budget.start(params), level=2.9, row=7, format=2, warning=0.0, critical=0.0)
    now = alert_budget.current(stored, params)
    assert (now.level, now.row, now.warning, now.critical) == (2.9, 7, params.warning.start, params.critical.start)
