"""Since when an alert's metrics are unusual, and which others join them while it is open."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.alerts.lifecycle.episodes import Episodes
from service.alerts.lifecycle.leading_metrics import rows_since_onset
from service.domain import Alert, MetricShare, Verdict
from service.settings import EpisodeSettings
from tests.alerts.makers import BORN, INTERVAL_MS, STRIDE, drawn, verdict

CPU = MetricShare("cpu", 0.8, 97.0, 40.0, 2.0, (40.0, 41.0, 97.0))
CONNS = MetricShare("db_conns", 0.6, 900.0, 100.0, 10.0)


def shown(*recent: float | None) -> MetricShare:
    return MetricShare("cpu", 1.0, recent[-1], 40.0, 1.0, recent)


@pytest.mark.parametrize("since", range(1, STRIDE + 1))
def test_an_alert_begins_with_the_first_row_that_left_what_was_before(since: int) -> None:
    before = [40.0 + 0.5 * (-1) ** row for row in range(60 - since)]
    metrics = (shown(*before, *[90.0] * since),)
    assert rows_since_onset(metrics, STRIDE) == since
    (opened, *_) = Episodes(EpisodeSettings()).observe([verdict(0, 0.8, metrics=metrics)])
    assert opened.started_at == (BORN - since + 1) * INTERVAL_MS


@given(st.lists(st.none() | st.floats(allow_nan=False, allow_infinity=True), max_size=80), st.integers(1, 30))
def test_whatever_the_rows_hold_it_lies_among_the_newest(recent: list[float | None], newest: int) -> None:
    metrics = (MetricShare("cpu", 1.0, None, None, None, tuple(recent)),)
    assert 1 <= rows_since_onset(metrics, newest) <= newest


def follow(*later: tuple[MetricShare, ...]) -> list[Alert]:
    """An alert on cpu that fired, then one window a stride with these metrics each."""
    windows: list[Verdict] = drawn(".ww")
    windows += [verdict(3 + at, 0.6, metrics=metrics) for at, metrics in enumerate(later)]
    return Episodes(EpisodeSettings()).observe(windows)


def test_a_metric_that_joins_a_firing_alert_is_told_once() -> None:
    told = follow((CPU,), (CONNS, CPU), (CONNS, CPU), (CONNS, CPU), (CONNS,))
    (widened,) = [each for each in told if each.action == "widened"]
    assert widened.reason == "now also db_conns"
    assert [metric.name for metric in widened.also] == ["db_conns"]


@pytest.mark.parametrize(
    "later",
    [
        [(CPU,)] * 5,
        [(CONNS, CPU), (CPU,), (CONNS, CPU), (CPU,)],  # never twice in a row
        [(msgspec.structs.replace(CONNS, share=0.1), CPU)] * 5,  # it does not lead
        [(msgspec.structs.replace(CONNS, actual=120.0), CPU)] * 5,  # it is within what is usual
    ],
)
def test_what_does_not_lead_the_anomaly_does_not_join_it(later: list[tuple[MetricShare, ...]]) -> None:
    assert [each.action for each in follow(*later) if each.action == "widened"] == []


def test_an_alert_tells_of_so_many_and_no_more() -> None:
    each_new = [(msgspec.structs.replace(CONNS, name=f"m{at // 2}"),) for at in range(20)]
    assert [each.action for each in follow(*each_new)].count("widened") == 4
