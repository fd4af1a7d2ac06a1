"""The alert budget: a level per entity that follows drift, so that false alarms stay near what people accepted.

Static thresholds break under drift, so the surprise that ``tracked`` of the rows exceed is followed online: up by ``GAIN``
(in log surprise) with each window above it, down a little with every row that passes (online quantile tracking, as in
adaptive conformal inference, Gibbs & Candès 2021). It never freezes, not even while alarmed: a tracker that waits for an
anomaly to end waits for ever when the anomaly is the new normal.

The tracked share is the budget itself, or one row in a thousand where the budget is rarer than that: rarer levels move
too slowly to be followed, so from there on the level is extrapolated along the calibrated tail, where a surprise *is* the
logarithm of the rarity. The followed level then never rises beyond the surprise it learns from: the alert level stands higher
still, and a fault that takes a few windows to grow would push it ahead of itself. ``shift`` is how far the level has drifted
from its calibrated start. What one window in ten exceeds is followed too; from these two levels follow the score, the severity
and the "one in N" of a window (``service/rarity.py``).

A bucket of tokens, one per onset and filled at ``REFILL`` times the budget, holds the budget in bursts: with the bucket empty
an onset is suppressed, while the tracker still learns from it. One that lies far beyond the level may borrow a token before it is
there, so that a false alarm cannot hide the fault that comes after it. Everything runs in event time: the state knows the row it
last saw, so skipped windows and any stride cost the same. BudgetDecision 0005 has the measurements.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.compiled import kernel
from service.domain import F64, I64
from service.rarity import COMMON_RARITY

MS_PER_DAY = 86_400_000
# One exceedance raises the level by a factor e^0.4 = 1.5: three in a row more than triple it.
GAIN = 0.4
# The level falls at 1.6 times the rate that would make exceedances as frequent as the budget. True anomalies exceed it too, and
# with 1.0 the false ones came to only 0.6 of the budget.
AIM = 1.6
REFILL = 1.9
# How many rows' worth of budget the bucket holds: quiet times may be spent in one burst.
SAVED_ROWS = 5000
# An onset ten times rarer than the level may borrow one token; until that is paid back nobody may.
FAR = 1.0
RAREST_TRACKED = 1e-3  # per row
MOST_OFTEN = 0.1  # per window: a budget beyond this is no budget
COMMON = 10.0**-COMMON_RARITY  # share of windows above the level of what is common
COMMON_GAIN = 0.01  # per row, in log surprise: a window of 100 rows in which all is above raises it by a factor 2.5
LEAST_COMMON = 0.1  # surprise: what four windows in five of calibration exceed is common whatever the calm
# After a gap the level falls for at most this many strides: rows nobody saw say nothing about what is normal.
MOST_SKIPPED = 10

Reason = Literal["within its level", "above its level", "above its level, but the alert budget is spent"]
REASONS: tuple[Reason, Reason, Reason] = (
    "within its level",
    "above its level",
    "above its level, but the alert budget is spent",
)
_WITHIN, _ABOVE, _SPENT = 0, 1, 2


class BudgetParams(msgspec.Struct, frozen=True):
    """What a budget means for one model.

    ``rate``: accepted false alarms per row; ``tracked``: the rate whose level is followed. ``calm``: the calibrated surprise of the
    tracked level at the model's stride, ``beyond``: how much further the budget's own level lies. ``floor``: the lowest log level.
    """

    rate: float
    tracked: float
    calm: float
    beyond: float
    floor: float
    stride: int

    @property
    def most_tokens(self) -> float:
        """The bucket's size."""
        return max(1.0, SAVED_ROWS * self.rate)


class BudgetState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """``z``: log of the tracked surprise; ``tokens``: onsets that may still be called, below 0 while one is owed;
    ``row``: newest row seen, -1 before any; ``common``: log of the surprise that one window in ten exceeds."""

    z: float
    tokens: float = 1.0
    row: int = -1
    common: float = 0.0


class BudgetDecision(msgspec.Struct, frozen=True):
    """``level``: the surprise above which a window is an onset now; ``shift``: how far drift moved it from its calibrated start;
    ``common``: the surprise that one window in ten exceeds now."""

    level: float
    is_anomaly: bool
    reason: Reason
    shift: float = 0.0
    common: float = COMMON_RARITY


class BudgetDecisions(msgspec.Struct, frozen=True):
    """Decisions on n windows as columns: ``level``, ``shift`` and ``common`` float64, ``is_anomaly`` bool, ``code`` int8 into
    ``REASONS``."""

    level: F64
    shift: F64
    common: F64
    is_anomaly: NDArray[np.bool_]
    code: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.level)

    def __getitem__(self, at: int) -> BudgetDecision:
        level, shift, common = (float(column[at]) for column in (self.level, self.shift, self.common))
        return BudgetDecision(level, bool(self.is_anomaly[at]), REASONS[self.code[at]], shift, common)


def params_for(false_alarms_per_day: float, interval_ms: int, stride: int) -> BudgetParams:
    """Parameters for a budget of false alarms per entity and day: rows ``interval_ms`` apart, one window every ``stride`` rows."""
    return params_at(false_alarms_per_day * interval_ms / MS_PER_DAY, stride)


def params_at(rate: float, stride: int = 1) -> BudgetParams:
    """Parameters for a budget of ``rate`` false alarms per row."""
    rate = min(rate, MOST_OFTEN / stride)
    tracked = min(max(rate, RAREST_TRACKED), MOST_OFTEN / stride)
    calm = -math.log10(tracked * stride)
    # Not below what one calibration window in ten exceeds (less where a coarse stride puts the level itself near there): a
    # stretch of unusual calm must not make the ordinary an alarm.
    floor = min(0.0, math.log(0.5 * calm))
    return BudgetParams(rate=rate, tracked=tracked, calm=calm, beyond=math.log10(tracked / rate), floor=floor, stride=stride)


def start(params: BudgetParams) -> BudgetState:
    """The state of an entity never seen before: its level stands where calibration put it."""
    return BudgetState(z=math.log(params.calm))


def step(state: BudgetState, row: int, surprise: float, params: BudgetParams) -> tuple[BudgetState, BudgetDecision]:
    """Judge the window that ends at ``row`` by its surprise (-log10 of its tail probability), then learn from it. Pure."""
    after, decisions = steps([state], np.zeros(1, np.int64), np.array([row], np.int64), np.array([surprise]), params)
    return after[0], decisions[0]


def steps(
    states: Sequence[BudgetState], slots: I64, rows: I64, surprises: F64, params: BudgetParams
) -> tuple[list[BudgetState], BudgetDecisions]:
    """``step`` over many windows at once: window i belongs to ``states[slots[i]]``; windows of one entity in row order.

    Returns the states afterwards, in the order given, and the decisions (n).
    """
    z = np.array([state.z for state in states], np.float64)
    tokens = np.array([state.tokens for state in states], np.float64)
    newest = np.array([state.row for state in states], np.int64)
    common = np.array([state.common for state in states], np.float64)
    level, commons = np.empty((2, len(slots)))
    code = np.empty(len(slots), np.int8)
    constants = (params.tracked, params.rate, params.beyond, params.floor, params.most_tokens)
    surprises = np.asarray(surprises, np.float64)
    _follow(slots, rows, surprises, params.stride, *constants, z, tokens, newest, common, level, commons, code)
    after = [BudgetState(*one) for one in zip(z.tolist(), tokens.tolist(), newest.tolist(), common.tolist(), strict=True)]
    return after, BudgetDecisions(level, level - (params.calm + params.beyond), commons, code == _ABOVE, code)


@kernel
def _follow(
    slots: I64,
    rows: I64,
    surprises: F64,
    stride: int,
    tracked: float,
    rate: float,
    beyond: float,
    floor: float,
    most_tokens: float,
    z: F64,
    tokens: F64,
    newest: I64,
    common: F64,
    level: F64,
    commons: F64,
    code: NDArray[np.int8],
) -> None:
    for i in range(slots.shape[0]):
        s = slots[i]
        elapsed = rows[i] - newest[s] if newest[s] >= 0 else stride
        newest[s] = rows[i]
        tokens[s] = min(tokens[s] + REFILL * rate * elapsed, most_tokens)
        followed = math.exp(z[s])
        level[i] = followed + beyond
        commons[i] = math.exp(common[s])
        code[i] = _WITHIN
        if surprises[i] > level[i]:
            code[i] = _SPENT
            if tokens[s] >= (0.0 if surprises[i] >= level[i] + FAR else 1.0):
                tokens[s] -= 1.0
                code[i] = _ABOVE
        risen = GAIN if surprises[i] > followed else 0.0
        if beyond > 0.0 and risen > 0.0:
            risen = min(risen, math.log(surprises[i]) - z[s])
        passed = min(elapsed, MOST_SKIPPED * stride)
        z[s] = max(z[s] + risen - GAIN * AIM * tracked * passed, floor)
        above = 1.0 if surprises[i] > commons[i] else 0.0
        common[s] = max(common[s] + COMMON_GAIN * passed * (above - COMMON), math.log(LEAST_COMMON))
