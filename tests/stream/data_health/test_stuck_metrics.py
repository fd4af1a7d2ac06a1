"""The states of metrics, read from the window buffers, against the rows as they came; and by the rules of training."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from service.detectors.windowing.metric_activity import count_activity, least_observed_rows
from service.domain import F32, Series
from service.stream.data_health.stuck_metrics import ALL_NULL, CONSTANT, TOO_FEW, UNKNOWN, VARIES, stuck_states
from service.stream.windows import Shape, Windows

ALL = np.ones(1, np.bool_)
NONE = np.zeros(1, np.bool_)
Rows = list[float | None]  # NaN: a null; None: no row


def fed(rows: Rows, window: int, *, max_gap: int = 3) -> Windows:
    """One entity's rows, the first of them row 100."""
    windows = Windows(Shape(1, window=window, stride=1, max_gap=max_gap, slack=2), max_slots=1)
    windows.open(phase=0, partition=0)
    at = [place for place, value in enumerate(rows) if value is not None]
    values: F32 = np.array([[rows[place]] for place in at], np.float32).reshape(len(at), 1)
    numbers = np.array(at, np.int64)
    windows.push(np.zeros(len(at), np.int64), numbers + 100, numbers, values, np.zeros(len(at), np.int64))
    return windows


def state_of(rows: Rows, window: int) -> tuple[int, int]:
    states, since = stuck_states(fed(rows, window), np.zeros(1, np.int64), ALL, ALL)
    return int(states[0, 0]), int(since[0, 0])


def test_a_metric_that_stops_moving_is_still_once_the_window_is_full_of_it() -> None:
    assert state_of([1, 2, 3, 3, 3], 4) == (VARIES, 0)
    assert state_of([1, 2, 3, 3, 3, 3], 4) == (CONSTANT, 102)
    assert state_of([1.0, 2.0, *[3.0] * 20], 4)[1] > 102  # as far as the buffer reaches
    assert state_of([3, 3, 3], 4) == (TOO_FEW, 0)
    assert state_of([3, np.nan, None, 3], 4) == (CONSTANT, 100)  # half of the window is enough
    assert state_of([3, 4, np.nan, None, None, 4], 4) == (TOO_FEW, 0)


def test_a_metric_that_turns_to_nulls_is_empty_while_its_entity_sends() -> None:
    null = np.nan
    assert state_of([1, 2, null, null, null], 3) == (ALL_NULL, 102)
    assert state_of([1, 2, null, None, None, null, 5], 3)[0] == TOO_FEW
    assert state_of([1, null, None, None, null], 3) == (UNKNOWN, 0)  # a row in three is not sending
    assert state_of([null, null], 3) == (UNKNOWN, 0)


def test_what_is_not_watched_is_well_however_it_stands() -> None:
    for rows in ([3.0] * 9, [np.nan] * 9):
        windows = fed(list(rows), 4)
        for moves, filled in ((NONE, NONE), (NONE, ALL), (ALL, NONE)):
            states, _ = stuck_states(windows, np.zeros(1, np.int64), moves, filled)
            wanted = {(True, 3.0): CONSTANT, (False, 3.0): VARIES}.get((bool(moves[0]), rows[0]))
            assert wanted is None or states[0, 0] == wanted
            assert states[0, 0] != ALL_NULL or filled[0]


@given(
    st.lists(st.sampled_from([0.0] * 6 + [1.0, np.nan, np.nan, None]), min_size=1, max_size=40).filter(
        lambda rows: rows[0] is not None
    ),
    st.integers(1, 8),
)
@settings(max_examples=400, deadline=None)
def test_serving_judges_a_window_as_training_does(rows: Rows, window: int) -> None:
    while rows[-1] is None:
        rows = rows[:-1]
    state, since = state_of(rows, window)
    longest = max((len(run) for run in "".join("." if row is None else "x" for row in rows).split("x")), default=0)
    if longest > 3:  # the run was broken; the window may not be full again
        return
    newest = [np.nan if value is None else value for value in rows[-window:]]
    counted = count_activity([Series("host", 0, np.array([newest], np.float32).T)], window)
    present = sum(row is not None for row in rows[-window:])
    full = len(rows) >= window
    assert (state == CONSTANT) == bool(full and counted.still[0])
    assert (state == ALL_NULL) == bool(full and counted.empty[0] and present >= least_observed_rows(window))
    if state in (CONSTANT, ALL_NULL):
        told = [value for value in rows[since - 100 :] if value is not None and not np.isnan(value)]
        assert len(set(told)) == (state == CONSTANT)
        assert since - 100 <= len(rows) - window or state == CONSTANT
