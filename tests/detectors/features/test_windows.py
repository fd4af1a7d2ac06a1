"""Features: scaled windows and their statistics, held against numpy written out."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.detectors.features import windows as features_module
from service.detectors.features.scaler import Scaler
from service.detectors.features.statistics import WindowStatistics
from service.detectors.features.windows import Features, carry_forward, split_tail
from service.domain import F32, Schema, Series, WindowBatch
from service.errors import NotEnoughData

NAN = np.float32(np.nan)


def rows(count: int, dims: int = 3, seed: int = 0) -> F32:
    return np.random.default_rng(seed).normal([5, -200, 1e6][:dims], [1, 30, 1e4][:dims], (count, dims)).astype(np.float32)


def batch(values: F32, entities: tuple[str, ...], mask: np.ndarray | None = None) -> WindowBatch:
    n, _, dims = values.shape
    zeros = np.zeros(n, np.int64)
    observed = np.isfinite(values) if mask is None else mask
    schema = Schema(tuple(f"m{j}" for j in range(dims)), 1000)
    return WindowBatch(schema, values, observed, entities, zeros, "metrics", zeros, zeros, zeros, ({},) * n)


@pytest.mark.parametrize("span", [1, 5, 17, 40, 150])
def test_statistics_are_those_of_the_newest_rows_of_the_scaled_window(span: int) -> None:
    values = rows(200)
    scaler = Scaler().fit([Series("a", 0, values)])
    features = scaler.windows([Series("a", 0, values)], 40)
    scaled = np.clip((values - scaler.centre("a")) / scaler.scale("a"), -10, 10)
    newest = np.stack([scaled[max(end - span, end - 40) : end] for end in range(40, 201)])
    np.testing.assert_allclose(features.mean(span), newest.mean(axis=1), atol=1e-4)
    np.testing.assert_allclose(features.range(span), np.ptp(newest, axis=1), atol=1e-4)
    np.testing.assert_allclose(features.std(span), newest.std(axis=1), atol=1e-4)
    np.testing.assert_array_equal(features.last, features.mean(1))
    assert features.mean(span).dtype == np.float32
    assert features.mean(span).flags.c_contiguous


def test_values_are_the_scaled_windows_clipped_with_missing_at_the_centre() -> None:
    values = np.array([[0.0], [2.0], [NAN], [1e9]], np.float32)
    scaler = Scaler().fit([Series("a", 0, rows(500, 1) - 5)])
    seen = scaler.transform(batch(values[None], ("a",))).values[0, :, 0]
    assert seen[2] == 0.0
    assert seen[3] == 10.0
    np.testing.assert_allclose(seen[1] - seen[0], 2.0 / scaler.scale("a")[0], rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 60), st.integers(1, 61))
def test_a_window_has_the_same_statistics_to_the_bit_in_any_batch(start: int, count: int) -> None:
    features = Scaler().fit([Series("a", 0, rows(100))]).windows([Series("a", 0, rows(100))], 40)
    part = features.take(slice(start, start + count))
    for kind in ("mean", "range", "std"):
        np.testing.assert_array_equal(getattr(part, kind)(10), getattr(features, kind)(10)[start : start + count])


def test_serving_and_training_see_the_same() -> None:
    values = rows(120)
    scaler = Scaler().fit([Series("a", 0, values)])
    trained = scaler.windows([Series("a", 0, values)], 40, stride=10)
    windows = np.stack([values[end - 40 : end] for end in range(40, 121, 10)])
    served = scaler.transform(batch(windows, ("a",) * len(windows)))
    np.testing.assert_array_equal(served.values, trained.values)
    np.testing.assert_array_equal(served.mean(5), trained.mean(5))


def test_windows_never_span_two_series() -> None:
    first, second = np.zeros((30, 1), np.float32), np.ones((25, 1), np.float32)
    series = [Series("a", 0, first), Series("b", 0, second), Series("c", 0, second[:5])]
    features = Scaler(own_rows=10**6).fit(series).windows(series, 20)
    assert len(features) == 11 + 6
    assert features.series.tolist() == [0] * 11 + [1] * 6
    assert (features.range(20) == 0).all()


def test_overlapping_windows_count_for_the_rows_they_cover() -> None:
    series = [Series("a", 0, rows(100)), Series("b", 0, rows(60))]
    features = Scaler().fit(series).windows(series, 20)
    assert features.independent == pytest.approx((100 + 60) / 20)
    evenly = features.take(np.linspace(0, len(features) - 1, 30).astype(np.int64))
    assert evenly.independent == pytest.approx(features.independent, rel=0.05)
    assert features.take(slice(0, 1)).independent == 1.0
    assert Features.of(np.zeros((7, 20, 2), np.float32)).independent == 7.0


def test_each_entity_has_its_own_scale_and_an_unknown_one_the_pooled() -> None:
    low, high = rows(600, 1), rows(600, 1, seed=1) + 1000
    scaler = Scaler().fit([Series("low", 0, low), Series("high", 0, high), Series("short", 0, high[:10])])
    assert abs(scaler.centre("low")[0] - 5) < 0.3
    assert abs(scaler.centre("high")[0] - 1005) < 0.3
    np.testing.assert_array_equal(scaler.centre("short"), scaler.centre("never seen"))
    window = np.full((1, 5, 1), 1005, np.float32)
    assert abs(scaler.transform(batch(window, ("high",))).last[0, 0]) < 1
    assert scaler.transform(batch(window, ("low",))).last[0, 0] == 10.0


def test_constant_columns_get_a_scale_that_shows_a_change_without_drowning_the_rest() -> None:
    values = np.column_stack([np.zeros(500), np.full(500, 8e9), np.full(500, -2.0)]).astype(np.float32)
    scaler = Scaler().fit([Series("a", 0, values)])
    np.testing.assert_allclose(scaler.scale("a"), [1.0, 8e8, 0.2], rtol=1e-5)


def states_and(scales: int, states: int) -> F32:
    """Metrics on a scale, then flags, every second of which never moved."""
    flags = (np.random.default_rng(3).random((500, states)) < 0.2).astype(np.float32)
    flags[:, ::2] = 0
    return np.concatenate([rows(500, scales), flags], axis=1)


def test_columns_that_only_say_which_state_it_is_do_not_outvote_the_metrics() -> None:
    values = states_and(1, 11)
    values[3, 4] = NAN
    scaler = Scaler().fit([Series("a", 0, values)])
    assert scaler.left_out == tuple(range(1, 12))
    windows = batch(np.concatenate([values[:40, :1], 1 - values[:40, 1:]], axis=1)[None], ("a",))
    for known in (scaler, Scaler().restore(*scaler.state())):
        seen = known.transform(windows).values
        assert (seen[..., 1:] == 0).all()
        assert np.ptp(seen[..., 0]) > 1
    assert (scaler.scale("a") > 0).all()


@pytest.mark.parametrize(("scales", "states"), [(1, 10), (2, 11), (0, 30)])
def test_flags_among_metrics_count_like_any_other(scales: int, states: int) -> None:
    values = states_and(scales, states)
    scaler = Scaler().fit([Series("a", 0, values)])
    assert scaler.left_out == ()
    assert (scaler.transform(batch(1 - values[:40][None], ("a",))).values[..., scales:] != 0).any(axis=(0, 1)).all()


def test_a_column_never_seen_is_neutral() -> None:
    values = rows(500)
    values[:, 1] = NAN
    scaler = Scaler().fit([Series("a", 0, values)])
    features = scaler.windows([Series("a", 0, values)], 20)
    assert (features.mean(5)[:, 1] == 0).all()
    assert not features.mask[:, :, 1].any()


def test_scaler_round_trips_to_the_bit_and_names_what_it_lacks() -> None:
    scaler = Scaler().fit([Series("a", 0, rows(600)), Series("b", 0, rows(600) * 2)])
    settings_, arrays = scaler.state()
    twin = Scaler().restore(settings_, arrays)
    windows = batch(rows(40)[None], ("b",))
    np.testing.assert_array_equal(twin.transform(windows).values, scaler.transform(windows).values)
    with pytest.raises(RuntimeError, match="fitted on 3 metrics and is asked for 1"):
        scaler.transform(batch(rows(40, 1)[None], ("b",)))
    with pytest.raises(NotEnoughData):
        Scaler().fit([])


def test_missing_values_are_carried_forward_as_the_stream_does() -> None:
    filled, mask = carry_forward(np.array([[NAN, 1], [2, NAN], [NAN, NAN], [3, 4]], np.float32))
    np.testing.assert_array_equal(filled, np.array([[NAN, 1], [2, 1], [2, 1], [3, 4]], np.float32))
    assert mask.tolist() == [[False, True], [True, False], [False, False], [True, True]]


def test_the_tail_held_out_shares_no_row_with_the_rest() -> None:
    series = [Series("a", 0, rows(300)), Series("b", 0, rows(200)), Series("c", 0, rows(45))]
    features = Scaler().fit(series).windows(series, 40)
    learn, check = split_tail(features, 0.2)
    for number in (0, 1):
        own_learn = features.ends[learn[features.series[learn] == number]]
        own_check = features.ends[check[features.series[check] == number]]
        assert own_learn.max() <= own_check.min() - 40
    assert set(features.series[learn]) == {0, 1, 2}
    assert set(features.series[check]) == {0, 1}


def test_each_statistic_is_computed_once_for_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    original = features_module.__dict__["summaries"]

    def counted(*given: Any) -> None:
        calls.append(given[5])
        original(*given)

    monkeypatch.setattr(features_module, "summaries", counted)
    features = Features.of(rows(4000).reshape(100, 40, 3))
    threads = [threading.Thread(target=features.mean, args=(7,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    features.range(7)
    assert calls == [7]


def test_spans_longer_than_the_window_become_one() -> None:
    values = np.random.default_rng(0).standard_normal((300, 3)).astype(np.float32)
    short = WindowStatistics((5, 25, 100), deviations=True).raw(Features(values, np.arange(20, 301), 20))
    assert short.shape == (281, 3 * 7)
