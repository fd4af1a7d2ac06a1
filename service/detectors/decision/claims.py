"""What is claimed of a window, "one in N": calibration that goes on in service.

Calibration says how often a window as surprising as this one came up in the held-out part of training. Data drift, so the claim
becomes wrong: on labelled series what was called "one in 1,000" was one normal row in 5. Three surprises of each entity are
therefore followed: those that one of its windows in 10, 100 and 1,000 exceeds. They start at the trained calibration (1, 2 and 3)
and each window moves them: up where it exceeds them, a little down where it does not (stochastic approximation of a quantile,
Robbins & Monro 1951), so that in the long run each is exceeded as often as it says, whatever the data do. The rarer two are
followed by their distance from the first, so a step is in proportion to how far the entity's surprises spread. A step up ends a
little beyond the window that caused it: windows overlap, and what is above a quantile now is followed by more of the same. The
claim is interpolated between the three (``service/rarity.py``).

Incidents are left out: when one ends, what is followed goes back to what it was at the onset, plus at most ``KEPT``. While it lasts
they follow it, so that a new normal is learned at once; one of ``ACCEPTED_AFTER_DAYS`` is accepted and kept. Whether a window is
anomalous is decided without any of this (``alert_budget.py``).

The rarest claim allowed grows too: every window length of rows outside incidents vouches like one more of calibration, up to
``MOST_VOUCHED`` of them. A state is ten numbers, under 100 bytes when stored. Decision 0021 has the measurements.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.compiled import kernel
from service.detectors.decision.calibration import FLOOR_FACTOR
from service.domain import F64, I64

# For one window in 10, 100 and 1,000: the share above it; how far a window above it moves it, as a logarithm (of the surprise for
# the first, of the distance from the first for the others); and how far beyond that window it may go, as a share.
SHARES = (0.1, 0.01, 0.001)
GAINS = (0.05, 0.7, 1.7)
BEYOND = (0.2, 0.3, 0.6)
LEAST = 0.02  # surprise: the least value of the first
LEAST_APART = 0.001  # the least distance of the others from the first, as a share of the first
KEPT = 0.2  # what an incident leaves behind, as a logarithm
QUIET = 3  # strides without an anomalous window that end an incident; so does a gap of ``LONGEST_GAP``
LONGEST_GAP = 10
ACCEPTED_AFTER_DAYS = 1.0
MOST_VOUCHED = 10_000.0  # window lengths: what is followed forgets, so more rows than these vouch for no rarer claim


class ClaimState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is followed of one entity. Surprises unless said otherwise.

    ``tenth``: what one window in ten exceeds; ``to_hundredth`` and ``to_thousandth``: from there to what one in 100 and 1,000
    exceeds; ``row``: newest row seen, -1 before any; ``rows``: rows scored outside incidents. Of the open incident: ``onset``, its
    first row, -1 where none is open; ``anomalous``, the row of its newest anomalous window; ``held_...``, the first three at its
    onset.
    """

    tenth: float = 1.0
    to_hundredth: float = 1.0
    to_thousandth: float = 2.0
    row: int = -1
    rows: float = 0.0
    onset: int = -1
    anomalous: int = -1
    held_tenth: float = 0.0
    held_hundredth: float = 0.0
    held_thousandth: float = 0.0


class ClaimParams(msgspec.Struct, frozen=True):
    """Of one model: ``n_eff``, the independent windows its calibration counts for; ``window`` and ``stride`` in rows; ``day``: rows
    of a day."""

    n_eff: float
    window: int
    stride: int
    day: float


class Claims(msgspec.Struct, frozen=True):
    """For n windows: ``exceeded``, float64 (n, 3), the surprises that one window in 10, 100 and 1,000 of its entity exceeds,
    learned from the windows before; ``vouched``, float64 (n,), the independent windows that they rest on."""

    exceeded: F64
    vouched: F64

    @property
    def floor(self) -> F64:
        """Float64 (n,): the smallest tail probability that may be claimed."""
        floor: F64 = 1.0 / (FLOOR_FACTOR * self.vouched)
        return floor


def follow(
    states: Sequence[ClaimState], slots: I64, rows: I64, surprises: F64, anomalous: NDArray[np.bool_], params: ClaimParams
) -> tuple[list[ClaimState], Claims]:
    """The claims for n windows, each made before it is learned from. Window i belongs to ``states[slots[i]]``; windows of one
    entity are in row order. Pure.

    ``slots`` and ``rows``: int64 (n,); ``surprises``: float64 (n,); ``anomalous``: bool (n,), what the alert budget decided.
    Returns the states afterwards, in the order given, and the claims.
    """
    held = np.array([msgspec.structs.astuple(state) for state in states], np.float64).reshape(len(states), len(_FIELDS))
    exceeded, seen = np.empty((len(slots), len(SHARES))), np.empty(len(slots))
    _follow(slots, rows, np.asarray(surprises, np.float64), anomalous, params.stride, params.day, held, exceeded, seen)
    vouched = np.maximum(np.minimum(params.n_eff + seen / params.window, MOST_VOUCHED), params.n_eff)
    after = [_state(*one) for one in held.tolist()]
    return after, Claims(exceeded, vouched)


def _state(a: float, b: float, c: float, row: float, rows: float, onset: float, last: float, *held: float) -> ClaimState:
    return ClaimState(a, b, c, int(row), rows, int(onset), int(last), held[0], held[1], held[2])


_FIELDS = ClaimState.__struct_fields__
_ROW, _ROWS, _ONSET, _ANOMALOUS, _HELD = (_FIELDS.index(name) for name in ("row", "rows", "onset", "anomalous", "held_tenth"))


@kernel
def _end(state: F64, kept: float) -> None:
    """End the incident: what it moved is taken back, but for ``kept``."""
    for j in range(len(SHARES)):
        state[j] = min(state[j], state[_HELD + j] * math.exp(kept))
    state[_ONSET] = -1.0


@kernel
def _learn(state: F64, exceeded: F64, surprise: float) -> None:
    tenth = state[0]
    for j in range(len(SHARES)):
        above = surprise if j == 0 else surprise - tenth
        if surprise > exceeded[j]:
            risen = min(state[j] * math.exp(GAINS[j] * (1.0 - SHARES[j])), above * (1.0 + BEYOND[j]))
            state[j] = max(state[j], risen)
        else:
            state[j] = max(state[j] * math.exp(-GAINS[j] * SHARES[j]), LEAST if j == 0 else LEAST_APART * tenth)


@kernel
def _follow(
    slots: I64,
    rows: I64,
    surprises: F64,
    anomalous: NDArray[np.bool_],
    stride: int,
    day: float,
    held: F64,
    exceeded: F64,
    seen: F64,
) -> None:
    for i in range(slots.shape[0]):
        state, row = held[slots[i]], rows[i]
        elapsed = row - int(state[_ROW]) if state[_ROW] >= 0.0 else stride
        state[_ROW] = row
        if state[_ONSET] >= 0.0 and elapsed > LONGEST_GAP * stride:
            _end(state, KEPT)
        if state[_ONSET] < 0.0 and anomalous[i]:
            state[_ONSET] = row
            for j in range(len(SHARES)):
                state[_HELD + j] = state[j]
        if state[_ONSET] < 0.0:
            state[_ROWS] += min(elapsed, stride)
        elif anomalous[i]:
            state[_ANOMALOUS] = row
        exceeded[i, 0] = state[0]
        for j in range(1, len(SHARES)):
            exceeded[i, j] = max(state[0] + state[j], exceeded[i, j - 1])
        seen[i] = state[_ROWS]
        _learn(state, exceeded[i], surprises[i])
        if state[_ONSET] >= 0.0:
            if row - state[_ONSET] >= ACCEPTED_AFTER_DAYS * day:
                state[_ONSET] = -1.0
            elif row - state[_ANOMALOUS] >= QUIET * stride:
                _end(state, KEPT)
