"""Which rows teach and which calibrate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain import Series
from service.errors import NotEnoughData
from service.training.split import normal_runs, split

WINDOW = 20


def series(count: int, entity: str = "a", start_row: int = 0, anomalous: slice | None = None) -> Series:
    """Rows whose single value is their own grid row, so that every slice says where it was cut."""
    labels = None
    if anomalous is not None:
        labels = np.zeros(count, np.uint8)
        labels[anomalous] = 1
    return Series(entity, start_row, np.arange(start_row, start_row + count, dtype=np.float32)[:, None], labels)


def rows_of(parts: list[Series]) -> list[int]:
    return [int(value) for part in parts for value in part.values[:, 0]]


def test_a_long_series_is_cut_into_fit_gap_and_calibration() -> None:
    parts = split([series(1000)], WINDOW, 0.2)
    assert rows_of(parts.fit) == list(range(780))
    assert rows_of(parts.calibration) == list(range(800, 1000))
    assert rows_of(parts.everything) == list(range(1000))


def test_a_short_tail_reaches_back_so_that_its_newest_rows_calibrate() -> None:
    parts = split([series(160)], WINDOW, 0.2)
    assert rows_of(parts.fit) == list(range(128))
    assert rows_of(parts.calibration) == list(range(128 - WINDOW + 1, 160))  # 32 windows, each ending in a row not learned from


def test_every_entity_is_cut_by_its_own_time() -> None:
    parts = split([series(1000, "a"), series(500, "b", start_row=5000)], WINDOW, 0.2)
    assert {(one.entity, one.start_row, len(one.values)) for one in parts.calibration} == {("a", 800, 200), ("b", 5400, 100)}


def test_several_series_of_one_entity_are_one_history() -> None:
    parts = split([series(600), series(400, start_row=2000)], WINDOW, 0.3)
    assert rows_of(parts.calibration) == list(range(2100, 2400))
    assert rows_of(parts.fit) == [*range(600), *range(2000, 2080)]


def test_labelled_anomalies_teach_and_calibrate_nothing() -> None:
    runs = normal_runs([series(100, anomalous=slice(40, 50))])
    assert [(run.start_row, len(run.values)) for run in runs] == [(0, 40), (50, 50)]
    assert all(run.labels is None for run in runs)
    parts = split([series(1000, anomalous=slice(850, 900))], WINDOW, 0.2)
    assert not set(range(850, 900)) & set(rows_of(parts.everything))


@pytest.mark.parametrize("labelled", [slice(0, 10), slice(90, 100), slice(0, 100), slice(0, 0)])
def test_labels_at_the_edges_are_cut_cleanly(labelled: slice) -> None:
    kept = rows_of(normal_runs([series(100, anomalous=labelled)]))
    assert kept == [row for row in range(100) if row not in range(100)[labelled]]


@settings(max_examples=60, deadline=None)
@given(st.integers(WINDOW, 2000), st.floats(0.05, 0.6))
def test_no_window_that_teaches_ends_where_one_calibrates(count: int, share: float) -> None:
    try:
        parts = split([series(count)], WINDOW, share)
    except NotEnoughData:
        assert count < 700
        return
    taught = {row for part in parts.fit for row in rows_of([part])[WINDOW - 1 :]}
    calibrated = {row for part in parts.calibration for row in rows_of([part])[WINDOW - 1 :]}
    assert max(taught) < min(calibrated)
    assert max(calibrated) == count - 1


@pytest.mark.parametrize("share", [0.1, 0.2, 0.4])
@pytest.mark.parametrize("window", [10, 100])
def test_the_least_it_names_is_enough_and_one_third_less_is_not(window: int, share: float) -> None:
    with pytest.raises(NotEnoughData, match=r"at least \d+ consecutive normal rows") as refused:
        split([series(window + 5)], window, share)
    least = int(str(refused.value).split("at least ")[1].split()[0])
    split([series(least)], window, share)
    with pytest.raises(NotEnoughData):
        split([series(least * 2 // 3)], window, share)
