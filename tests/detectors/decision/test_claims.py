"""What is claimed, "one in N": right as often as it says under drift, not taught by incidents, and reaching further with time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.detectors.decision.calibration import MOST_SURPRISE
from service.detectors.decision.claims import BEYOND, GAINS, KEPT, MOST_VOUCHED, SHARES, ClaimParams, Claims, ClaimState, follow
from service.domain import F64, I64
from service.rarity import rarities

WINDOW, DAY = 100, 1440
SURPRISES = st.one_of(st.floats(0.0, 8.0), st.floats(0.0, MOST_SURPRISE), st.just(0.0))


@dataclass
class Plainly:
    """The rule as the module's docstring words it, one window of one entity at a time."""

    stride: int
    followed: list[float] = field(default_factory=lambda: [1.0, 1.0, 2.0])
    held: list[float] = field(default_factory=list)
    newest: int | None = None
    onset: int | None = None
    anomalous: int = 0

    def end(self) -> None:
        self.followed = [min(now, then * math.exp(KEPT)) for now, then in zip(self.followed, self.held, strict=True)]
        self.onset = None

    def window(self, row: int, surprise: float, anomalous: bool) -> list[float]:
        if self.onset is not None and self.newest is not None and row - self.newest > 10 * self.stride:
            self.end()
        self.newest = row
        if anomalous:
            if self.onset is None:
                self.onset, self.held = row, list(self.followed)
            self.anomalous = row
        tenth = self.followed[0]
        exceeded = [tenth, tenth + self.followed[1], tenth + max(self.followed[1:])]
        for j, (share, gain, beyond) in enumerate(zip(SHARES, GAINS, BEYOND, strict=True)):
            if surprise > exceeded[j]:
                distance = surprise - (tenth if j else 0.0)
                risen = min(self.followed[j] * math.exp(gain * (1 - share)), distance * (1 + beyond))
                self.followed[j] = max(self.followed[j], risen)
            else:
                self.followed[j] = max(self.followed[j] * math.exp(-gain * share), 0.001 * tenth if j else 0.02)
        if self.onset is not None:
            if row - self.onset >= DAY:
                self.onset = None
            elif row - self.anomalous >= 3 * self.stride:
                self.end()
        return exceeded


def params(stride: int = 1, n_eff: float = 50.0) -> ClaimParams:
    return ClaimParams(n_eff=n_eff, window=WINDOW, stride=stride, day=DAY)


def one(
    surprises: F64, anomalous: NDArray[np.bool_] | None = None, state: ClaimState | None = None, stride: int = 1
) -> tuple[ClaimState, Claims]:
    """``follow`` over the windows of one entity, a stride apart."""
    rows = (np.arange(len(surprises)) + 1) * stride + (0 if state is None else max(state.row, 0))
    quiet = np.zeros(len(surprises), np.bool_)
    after, made = follow(
        [state or ClaimState()],
        np.zeros(len(surprises), np.int64),
        rows,
        surprises,
        quiet if anomalous is None else anomalous,
        params(stride),
    )
    return after[0], made


@settings(deadline=None, max_examples=150)  # the first call compiles the kernel
@given(
    windows=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 400), SURPRISES, st.booleans()), min_size=1, max_size=80),
    stride=st.sampled_from([1, 10]),
    cut=st.integers(0, 80),
)
def test_batches_single_windows_and_a_restart_at_any_place_follow_the_rule_as_worded(
    windows: list[tuple[int, int, float, bool]], stride: int, cut: int
) -> None:
    newest, rows = [0, 0, 0], []
    for entity, passed, _, _ in windows:
        newest[entity] += passed
        rows.append(newest[entity])
    slots: I64 = np.array([entity for entity, *_ in windows])
    ends: I64 = np.array(rows)
    surprises, anomalous = np.array([w[2] for w in windows]), np.array([w[3] for w in windows])
    plain = [Plainly(stride) for _ in range(3)]
    worded = [plain[e].window(int(r), float(s), bool(a)) for e, r, s, a in zip(slots, ends, surprises, anomalous, strict=True)]

    fresh = [ClaimState()] * 3
    states, together = follow(fresh, slots, ends, surprises, anomalous, params(stride))
    np.testing.assert_allclose(together.exceeded, worded, rtol=1e-12)

    alone, floors = list(fresh), []
    for i in range(len(windows)):
        at = slice(i, i + 1)
        after, made = follow([alone[slots[i]]], np.zeros(1, np.int64), ends[at], surprises[at], anomalous[at], params(stride))
        alone[slots[i]] = after[0]
        floors.append(made.floor[0])
        np.testing.assert_array_equal(made.exceeded[0], together.exceeded[i])
    assert alone == states
    np.testing.assert_array_equal(floors, together.floor)

    before, first = follow(fresh, slots[:cut], ends[:cut], surprises[:cut], anomalous[:cut], params(stride))
    stored = msgspec.msgpack.decode(msgspec.msgpack.encode(before), type=list[ClaimState])
    again, second = follow(stored, slots[cut:], ends[cut:], surprises[cut:], anomalous[cut:], params(stride))
    assert again == states
    np.testing.assert_array_equal(np.concatenate([first.exceeded, second.exceeded]), together.exceeded)
    assert max(len(msgspec.msgpack.encode(state)) for state in states) < 100

    assert np.isfinite(together.exceeded).all()
    assert (np.diff(together.exceeded, axis=1) >= 0).all()
    assert (together.exceeded <= MOST_SURPRISE * 4).all()


@pytest.mark.parametrize("drift", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("overlap", [1, 10])
def test_a_claim_is_right_as_often_as_it_says_whatever_has_drifted(drift: float, overlap: int) -> None:
    independent = np.random.default_rng(2).exponential(drift / math.log(10), 300_000)
    surprises = np.lib.stride_tricks.sliding_window_view(independent, overlap).max(axis=1)
    _, made = one(surprises)
    said = rarities(surprises, made.exceeded)[1000:]
    seen = [(said >= decades).mean() * 10**decades for decades in (1, 2, 3)]
    assert min(seen) > 1 / 3
    assert max(seen) < 3


@settings(deadline=None, max_examples=50)
@given(peak=st.floats(4.0, MOST_SURPRISE), length=st.integers(1, DAY // 10 - 5))
def test_an_incident_teaches_next_to_nothing_and_a_new_normal_is_kept(peak: float, length: int) -> None:
    calm = np.random.default_rng(0).exponential(1 / math.log(10), 2000)
    state, _ = one(calm, stride=10)
    anomalous = np.r_[np.ones(length, np.bool_), np.zeros(5, np.bool_)]
    after, _ = one(np.where(anomalous, peak, 0.0), anomalous, state, stride=10)
    for name in ("tenth", "to_hundredth", "to_thousandth"):
        assert getattr(after, name) <= getattr(state, name) * math.exp(KEPT) + 1e-12
    assert after.rows <= state.rows + 5 * 10  # the rows of the incident vouch for nothing

    days = np.full(DAY // 10 + 1, peak)
    accepted, _ = one(days, np.ones(len(days), np.bool_), state, stride=10)
    assert accepted.tenth > 0.9 * peak


@settings(deadline=None)
@given(n_eff=st.floats(1.0, 1e5), windows=st.integers(1, 300))
def test_the_rarest_claim_reaches_further_with_every_window_length_and_is_never_less_than_after_training(
    n_eff: float, windows: int
) -> None:
    state, rows = ClaimState(rows=3_000.0), np.arange(1, windows + 1) * 10
    _, made = follow([state], np.zeros(windows, np.int64), rows, np.zeros(windows), np.zeros(windows, np.bool_), params(10, n_eff))
    assert (np.diff(made.floor) <= 0).all()
    vouched = n_eff + (3_000 + 10 * windows) / WINDOW
    assert 1 / made.floor[-1] == pytest.approx(10 * max(n_eff, min(vouched, MOST_VOUCHED)))
