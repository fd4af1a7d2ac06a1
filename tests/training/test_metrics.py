"""Measures of scores and alerts: against hand-worked values, slow written-out definitions, and TSB-AD's own numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.domain import F64
from service.training import metrics

ROW = np.arange(400)
WAVE = np.sin(ROW * 0.37) + 0.5 * np.cos(ROW * 0.11) + 0.01 * ROW
REGULAR = ((ROW % 90 >= 60) & (ROW % 90 < 75)).astype(int)
SCATTERED = np.isin(ROW, [0, 1, 5, 9, 200, 203, 206, 399]).astype(int)
LATE = (ROW >= 380).astype(int)


@pytest.mark.parametrize(
    ("labels", "scores", "expected"),
    [
        (REGULAR, WAVE, (0.50152670597, 0.236663726014, 0.179618235691)),
        (REGULAR, np.round(WAVE), (0.537698264614, 0.239009958149, 0.179703597059)),
        (REGULAR, WAVE + 1.5 * REGULAR, (0.630208908675, 0.455037897492, 0.407258285492)),
        (SCATTERED, WAVE, (0.382300080984, 0.141319346363, 0.044058455345)),
        (SCATTERED, np.round(WAVE), (0.32296879276, 0.120545677066, 0.051233746161)),
        (SCATTERED, WAVE + 1.5 * SCATTERED, (0.418856266006, 0.19364517002, 0.088657287655)),
        (LATE, WAVE, (0.699588938278, 0.558906944433, 0.526109805603)),
        (LATE, np.round(WAVE), (0.517831993331, 0.382845067416, 0.3625396406)),
        (LATE, WAVE + 1.5 * LATE, (0.951787460214, 0.936394277012, 0.934743540067)),
    ],
)
def test_vus_pr_is_what_tsb_ad_1_5_prints(labels: NDArray[np.int64], scores: F64, expected: tuple[float, ...]) -> None:
    found = [metrics.vus_pr(labels, scores, window=window) for window in (100, 20, 7)]
    assert found == pytest.approx(expected, abs=1e-11)


def slow_vus_pr(labels: NDArray[np.int64], scores: F64, window: int, thresholds: int) -> float:
    """The definition, threshold by threshold and row by row."""
    spans = metrics.events(labels).tolist()
    rows = len(labels)
    levels = np.sort(scores)[::-1][np.linspace(0, rows - 1, thresholds).astype(int)]
    areas = []
    for width in range(window + 1):
        reach = width // 2
        soft = labels.astype(float)
        for start, stop in spans:
            for row in range(rows):
                distance = start - row if row < start else row - stop + 1
                if distance > 0 and distance <= reach:
                    soft[row] += math.sqrt(1 - distance / width)
        soft = np.minimum(soft, 1.0)
        merged: list[list[int]] = []
        for start, stop in spans:
            a, b = max(start - reach, 0), min(stop + reach, rows)
            if merged and merged[-1][1] > a:
                merged[-1][1] = b
            else:
                merged.append([a, b])
        area = before = 0.0
        for level in levels:
            flagged = scores >= level
            found = float((soft * flagged).sum())
            positives = labels.sum() + float((soft * flagged)[labels == 0].sum()) / 2
            touched = float(np.mean([flagged[a:b].any() for a, b in merged]))
            recall = min(found / positives, 1.0) * touched
            area += (recall - before) * found / flagged.sum()
            before = recall
        areas.append(area)
    return float(np.mean(areas))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), share=st.floats(0.02, 0.6), digits=st.integers(0, 3), window=st.integers(0, 9))
def test_vus_pr_equals_its_definition(seed: int, share: float, digits: int, window: int) -> None:
    rng = np.random.default_rng(seed)
    labels = (rng.random(60) < share).astype(int)
    labels[rng.integers(60)] = 1
    scores = np.round(rng.random(60) + 0.5 * labels, digits)
    fast = metrics.vus_pr(labels, scores, window=window, thresholds=25)
    assert fast == pytest.approx(slow_vus_pr(labels, scores, window, 25), abs=1e-12)


@settings(deadline=None)
@given(seed=st.integers(0, 1000))
def test_rising_transforms_change_nothing_and_better_scores_do_better(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.zeros(300, int)
    labels[100:130] = labels[200:210] = 1
    scores = rng.random(300)
    for measure in (metrics.vus_pr, metrics.auc_pr):
        measured = measure(labels, scores)
        assert 0.0 < measured <= 1.0
        assert measure(labels, np.exp(3 * scores)) == pytest.approx(measured)
        assert measure(labels, scores + 2.0 * labels) > measured


def test_auc_pr_by_hand() -> None:
    # Ranked 1 0 1 1 0: precision at the hits is 1/1, 2/3, 3/4.
    assert metrics.auc_pr([1, 0, 1, 1, 0], [5, 4, 3, 2, 1]) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert metrics.auc_pr([1, 0, 1, 0], [7, 7, 7, 7]) == pytest.approx(0.5)  # one threshold, half of it right
    assert math.isnan(metrics.auc_pr([0, 0], [1, 2]))
    with pytest.raises(ValueError, match="one length"):
        metrics.auc_pr([0, 1], [1.0])
    with pytest.raises(ValueError, match="finite"):
        metrics.vus_pr([0, 1], [1.0, math.nan])


def test_events_and_what_alerts_catch_of_them_by_hand() -> None:
    #         0         1         2
    #         0123456789012345678901234
    labels = [int(c) for c in "1100001111100000000011000"]
    alerts = [int(c) for c in "0001100010000001000000011"]
    assert metrics.events(labels).tolist() == [[0, 2], [6, 11], [20, 22]]
    assert metrics.event_recall(labels, alerts) == pytest.approx(1 / 3)
    assert metrics.event_recall(labels, alerts, within=2) == 0.0
    assert metrics.event_recall(labels, alerts, within=3) == pytest.approx(1 / 3)
    assert metrics.detection_delay(labels, alerts) == 2.0
    assert metrics.event_precision(labels, alerts) == pytest.approx(1 / 4)
    assert metrics.false_positive_rate(labels, alerts) == pytest.approx(5 / 16)
    assert metrics.extent(labels, alerts) == pytest.approx((1 / 9, 5 / 6))


def test_nothing_to_divide_by_is_nan_not_a_number() -> None:
    quiet = np.zeros(10, int)
    assert math.isnan(metrics.event_recall(quiet, quiet))
    assert math.isnan(metrics.event_precision(quiet, quiet))
    assert math.isnan(metrics.detection_delay(1 - quiet, quiet))
    assert math.isnan(metrics.false_positive_rate(1 - quiet, quiet))
    assert math.isnan(metrics.random_event_recall(quiet, 3))
    assert math.isnan(metrics.poisson_rate(0, 0.0).rate)


def test_random_recall_is_what_random_rows_catch() -> None:
    labels = np.zeros(200, int)
    labels[20:60] = labels[100:103] = 1
    rng = np.random.default_rng(0)
    caught = []
    for _ in range(4000):
        alerts = np.zeros(200, int)
        alerts[rng.choice(200, 10, replace=False)] = 1
        caught.append((metrics.event_recall(labels, alerts), metrics.event_recall(labels, alerts, within=5)))
    expected = metrics.random_event_recall(labels, 10), metrics.random_event_recall(labels, 10, within=5)
    assert np.mean(caught, axis=0) == pytest.approx(expected, abs=0.02)
    assert metrics.random_event_recall(labels, 200) == 1.0
    assert metrics.random_event_recall(labels, 0) == pytest.approx(0.0)


def test_poisson_intervals_are_exact() -> None:
    # Garwood (1936), table values.
    none, ten = metrics.poisson_rate(0, 1.0), metrics.poisson_rate(10, 2.0)
    assert (none.low, none.high) == pytest.approx((0.0, 3.689), abs=1e-3)
    assert (ten.rate, ten.low * 2, ten.high * 2) == pytest.approx((5.0, 4.795, 18.390), abs=1e-3)


def test_reliability_counts_and_says_what_is_supported() -> None:
    p = np.linspace(0.0005, 0.9995, 1000)
    table = metrics.reliability_table(p, effective=150.0, levels=(0.1, 0.01, 0.001))
    assert [line.observed for line in table] == pytest.approx([0.1, 0.01, 0.001])
    assert [line.supported for line in table] == [True, True, False]


@pytest.mark.parametrize(
    ("nominal", "observed", "rows", "right"),
    [
        (0.1, 0.25, 1000, True),
        (0.1, 0.31, 1000, False),
        (0.1, 0.03, 1000, False),
        (0.001, 0.0, 1000, True),  # one is expected: none says nothing
        (0.001, 0.012, 1000, False),  # twelve do
        (0.001, 0.0, 9000, False),
        (0.001, math.nan, 0, True),
    ],
)
def test_a_claim_is_right_within_a_factor_of_three_or_within_chance(
    nominal: float, observed: float, rows: int, right: bool
) -> None:
    assert metrics.within_factor(metrics.Reliability(nominal, observed, rows, True)) is right
