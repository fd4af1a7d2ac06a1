"""The alert budget: a level per entity that follows drift, so that false alarms stay near the accepted number.

Static thresholds break under drift, so the surprise that a share ``tracked`` of the rows exceed is tracked online: up by ``GAIN``
(in log surprise) with each window above it, down a little with every row (online quantile tracking, as in adaptive conformal
inference, Gibbs & Candès 2021). It does not stop during an anomaly: a tracker that waits for the end of an anomaly waits for ever
when the anomaly is the new normal.

The tracked share is the budget itself, or one row in a thousand where the budget is rarer than that: rarer levels would move
too slowly. From there the alert level is extrapolated along the calibrated tail, where a surprise is the logarithm of the rarity.
The tracked level then never rises above the surprise it learns from; otherwise a fault that grows over a few windows would push the
alert level, which is higher still, ahead of itself. ``shift`` is how far the level has drifted from its calibrated start. The
surprise that one window in ten exceeds (``common``) is tracked too; the score, the severity and the "one in N" of a window follow
from the two (``service/rarity.py``).

A bucket of tokens limits bursts: every onset takes one, and it fills at ``REFILL`` times the budget. With the bucket empty
an onset is suppressed, while the tracker still learns from it. An onset far above the level may take one token in advance, so that
a false alarm cannot hide the fault that follows it. Everything runs in event time: the state holds the last row, so skipped windows
and different strides are accounted for. Decision 0005 has the measurements.
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
# How many rows' worth of budget the bucket holds: what was not used in quiet times may be used in one burst.
SAVED_ROWS = 5000
# An onset ten times rarer than the level may take one token in advance; the next one only when that is refilled.
FAR = 1.0
RAREST_TRACKED = 1e-3  # per row
MOST_OFTEN = 0.1  # alarms per window: higher budgets are cut to this
COMMON = 10.0**-COMMON_RARITY  # share of windows above ``common``
COMMON_GAIN = 0.01  # per row, in log surprise: 100 rows in a row above it raise it by a factor 2.5
LEAST_COMMON = 0.1  # surprise: the least value of ``common``; four calibration windows in five exceed it
# After a gap the level falls for at most this many strides: rows that were not scored say nothing about what is normal.
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

    ``rate``: accepted false alarms per row; ``tracked``: the rate per row whose level is tracked. ``tracked_level``: the calibrated
    surprise of that rate at the model's stride; ``extrapolation``: how much higher the alert level lies; ``floor``: the least
    logarithm of the tracked level.
    """

    rate: float
    tracked: float
    tracked_level: float
    extrapolation: float
    floor: float
    stride: int

    @property
    def most_tokens(self) -> float:
        """The size of the bucket, in tokens."""
        return max(1.0, SAVED_ROWS * self.rate)


class BudgetState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The tracker of one entity. ``log_level``: natural log of the tracked surprise; ``tokens``: onsets left in the bucket, below 0
    while one was taken in advance; ``row``: newest row seen, -1 before any; ``log_common``: natural log of ``common``."""

    log_level: float
    tokens: float = 1.0
    row: int = -1
    log_common: float = 0.0


class BudgetDecision(msgspec.Struct, frozen=True):
    """The decision on one window. ``level``: the surprise above which it is anomalous; ``shift``: how far drift has moved the level
    from its calibrated start; ``common``: the surprise that one window of the entity in ten exceeds now."""

    level: float
    is_anomaly: bool
    reason: Reason
    shift: float = 0.0
    common: float = COMMON_RARITY


class BudgetDecisions(msgspec.Struct, frozen=True):
    """Decisions on n windows as columns (n,): ``level``, ``shift`` and ``common`` float64, ``is_anomaly`` bool, ``code`` int8, an
    index into ``REASONS``."""

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
    tracked_level = -math.log10(tracked * stride)
    # Not below what one calibration window in ten exceeds (less where a coarse stride puts the level itself near there): after an
    # unusually uniform stretch, ordinary windows must not become alarms.
    floor = min(0.0, math.log(0.5 * tracked_level))
    extrapolation = math.log10(tracked / rate)
    return BudgetParams(
        rate=rate, tracked=tracked, tracked_level=tracked_level, extrapolation=extrapolation, floor=floor, stride=stride
    )


def start(params: BudgetParams) -> BudgetState:
    """The state of a new entity: its level is the calibrated one."""
    return BudgetState(log_level=math.log(params.tracked_level))


def step(state: BudgetState, row: int, surprise: float, params: BudgetParams) -> tuple[BudgetState, BudgetDecision]:
    """Decide on the window that ends at ``row`` by its surprise (-log10 of its tail probability), then learn from it. Pure."""
    after, decisions = steps([state], np.zeros(1, np.int64), np.array([row], np.int64), np.array([surprise]), params)
    return after[0], decisions[0]


def steps(
    states: Sequence[BudgetState], slots: I64, rows: I64, surprises: F64, params: BudgetParams
) -> tuple[list[BudgetState], BudgetDecisions]:
    """``step`` over n windows: window i belongs to ``states[slots[i]]``; windows of one entity are in row order. Pure.

    ``slots`` and ``rows``: int64 (n,); ``surprises``: float64 (n,). Returns the states afterwards, in the order given, and the
    decisions.
    """
    log_level = np.array([state.log_level for state in states], np.float64)
    tokens = np.array([state.tokens for state in states], np.float64)
    newest = np.array([state.row for state in states], np.int64)
    log_common = np.array([state.log_common for state in states], np.float64)
    level, common = np.empty((2, len(slots)))
    code = np.empty(len(slots), np.int8)
    constants = (params.tracked, params.rate, params.extrapolation, params.floor, params.most_tokens)
    surprises = np.asarray(surprises, np.float64)
    _track(slots, rows, surprises, params.stride, *constants, log_level, tokens, newest, log_common, level, common, code)
    columns = (log_level.tolist(), tokens.tolist(), newest.tolist(), log_common.tolist())
    after = [BudgetState(*one) for one in zip(*columns, strict=True)]
    return after, BudgetDecisions(level, level - (params.tracked_level + params.extrapolation), common, code == _ABOVE, code)


@kernel
def _track(
    slots: I64,
    rows: I64,
    surprises: F64,
    stride: int,
    tracked: float,
    rate: float,
    extrapolation: float,
    floor: float,
    most_tokens: float,
    log_level: F64,
    tokens: F64,
    newest: I64,
    log_common: F64,
    level: F64,
    common: F64,
    code: NDArray[np.int8],
) -> None:
    for i in range(slots.shape[0]):
        s = slots[i]
        elapsed = rows[i] - newest[s] if newest[s] >= 0 else stride
        newest[s] = rows[i]
        tokens[s] = min(tokens[s] + REFILL * rate * elapsed, most_tokens)
        tracked_level = math.exp(log_level[s])
        level[i] = tracked_level + extrapolation
        common[i] = math.exp(log_common[s])
        code[i] = _WITHIN
        if surprises[i] > level[i]:
            code[i] = _SPENT
            if tokens[s] >= (0.0 if surprises[i] >= level[i] + FAR else 1.0):
                tokens[s] -= 1.0
                code[i] = _ABOVE
        rise = GAIN if surprises[i] > tracked_level else 0.0
        if extrapolation > 0.0 and rise > 0.0:
            rise = min(rise, math.log(surprises[i]) - log_level[s])
        passed = min(elapsed, MOST_SKIPPED * stride)
        log_level[s] = max(log_level[s] + rise - GAIN * AIM * tracked * passed, floor)
        above = 1.0 if surprises[i] > common[i] else 0.0
        log_common[s] = max(log_common[s] + COMMON_GAIN * passed * (above - COMMON), math.log(LEAST_COMMON))
