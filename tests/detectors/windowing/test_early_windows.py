"""Early windows: as rare on normal rows as asked, and the same ones in training, in evaluation and in the stream."""

from __future__ import annotations

import numpy as np
import pytest

from service.detectors.features.scaler import Scaler
from service.detectors.windowing.early_windows import MOST_EARLY, EarlyWindows, early_windows, learn_mean_change
from service.domain import F32, Series, phase_of
from service.stream.window_buffers import due_mask
from service.stream.windows import Shape, Windows

WINDOW, STRIDE = 40, 10


def noise(rows: int, seed: int = 0, dims: int = 6) -> F32:
    return np.random.default_rng(seed).standard_normal((rows, dims)).astype(np.float32)


def learned(*series: Series, share: float = 0.05, stride: int = STRIDE) -> tuple[EarlyWindows | None, Scaler]:
    scaler = Scaler().fit(series)
    return early_windows(scaler, learn_mean_change(series, scaler, window=WINDOW, stride=stride, share=share)), scaler


def due(values: F32, rule: EarlyWindows, entity: str = "a") -> list[int]:
    seen, table = np.isfinite(values), rule.tables.get(entity, 0)
    due = due_mask(values, seen, phase_of(entity), table, STRIDE, rule.inverse, rule.threshold, MOST_EARLY)
    return np.flatnonzero(due).tolist()


@pytest.mark.parametrize("share", [0.02, 0.1])
def test_so_many_normal_strides_hold_one_as_were_asked_for(share: float) -> None:
    rule, _ = learned(Series("a", 0, noise(40_000)), share=share)
    assert rule is not None
    fresh = noise(40_000, seed=1)
    between = {row for row in due(fresh, rule) if (row + phase_of("a")) % STRIDE}
    strides = {(row + phase_of("a")) // STRIDE for row in between if row - STRIDE not in between}  # the others follow one
    assert len(strides) == pytest.approx(4000 * share, rel=0.3)


def test_a_jump_is_looked_at_at_once_and_so_is_its_end() -> None:
    rule, _ = learned(Series("a", 0, noise(4000)))
    assert rule is not None
    values = noise(400, seed=2)
    first = 201 + (-phase_of("a") - 201) % STRIDE + 3  # three rows after one of the grid
    values[first : first + 4] += 4.0
    assert {first, first + STRIDE, first + 4, first + 4 + STRIDE} <= set(due(values, rule))  # and once more a stride later


def test_an_entity_gone_wild_costs_five_times_as_much_at_most() -> None:
    rule, _ = learned(Series("a", 0, noise(4000)))
    assert rule is not None
    _, looks = np.unique([(row + phase_of("a")) // STRIDE for row in due(noise(1000) * 50, rule)], return_counts=True)
    assert set(looks[1:-1]) <= set(range(1 + MOST_EARLY, 2 + 2 * MOST_EARLY))


def test_where_no_row_lies_between_there_are_none() -> None:
    one = Series("a", 0, noise(4000))
    assert learned(one, stride=1)[0] is None
    assert learned(one, share=0.0)[0] is None
    assert learned(one, stride=WINDOW // 2 + 1)[0] is None  # a restart would not see all that they follow from
    assert learned(Series("a", 0, noise(150)))[0] is None  # 15 strides cannot say what one in 20 exceeds


def test_an_entity_is_held_against_its_own_scale_and_states_do_not_count() -> None:
    states = (np.arange(2000)[:, None] // 7 % 2 * np.ones(30)).astype(np.float32)
    a, b = (np.hstack([noise(2000, seed, 2) * unit, states]) for seed, unit in ((0, 1), (1, 100)))
    series = [Series("a", 0, a), Series("b", 0, b)]
    rule, scaler = learned(*series)
    assert rule is not None
    assert len(scaler.left_out) == 30
    assert set(rule.tables) == {"a", "b"}
    values = np.hstack([noise(600, 5, 2), states[:600]])
    assert len(due(values, rule, "b")) == 60
    assert len(due(values * 100, rule, "b")) > 60
    values[300:, 2:] = 9.0
    assert due(values, rule, "a") == due(np.hstack([values[:, :2], states[:600]]), rule, "a")


@pytest.mark.parametrize("gaps", [0.0, 0.2])
def test_the_stream_looks_where_evaluation_looks(gaps: float) -> None:
    rule, _ = learned(Series("a", 0, noise(2000)))
    assert rule is not None
    values = noise(3000, seed=3)
    values[1000:1500] *= 3
    values[np.random.default_rng(4).random(values.shape) < gaps] = np.nan
    windows = Windows(Shape(6, window=WINDOW, stride=STRIDE), max_slots=1, early=rule)
    windows.open(phase=phase_of("a"), partition=0)
    rows, zeros = np.arange(3000), np.zeros(3000, np.int64)
    ends = [end for part in windows.push(zeros, rows, rows, values, zeros) for end in part.end_rows.tolist()]
    filled = np.where(np.isfinite(values), values, np.float32(0))  # what is carried is not looked at
    seen = np.isfinite(values)
    expected = np.flatnonzero(due_mask(filled, seen, phase_of("a"), 0, STRIDE, rule.inverse, rule.threshold, MOST_EARLY))
    assert ends == expected[expected >= WINDOW - 1].tolist()
    assert len(ends) > 330
