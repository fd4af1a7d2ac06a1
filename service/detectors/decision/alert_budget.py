"""The alert budget: a level of surprise per entity that follows drift and can always be exceeded by a stronger fault.

The level starts where calibration puts the budget: at the surprise of so many false alarms a day. A window above it is the onset
of an *excursion*. An excursion is one alarm, however long it lasts, and while it is open the level stays what it was at the onset.
It ends with ``QUIET`` windows in a row that lie within that level; then the level is as it was, plus one ``STEP``. With every row
the level falls by ``AIM`` times what would make onsets as frequent as the budget in the long run (stochastic approximation of a
quantile, Robbins & Monro 1951, counted in onsets instead of windows). Half of each step is lasting: the other half decays within
days (``HALF_LIFE_DAYS``), so that a bad day is not held against the days after it.

Only what lasts is accepted as the new normal: an excursion of ``ACCEPTED_AFTER_DAYS`` ends with the level at its recent peak, and
that becomes the level to which it falls back. Steps are added to -log10 p, so the level rises by as much for a fault of 30 sigma as
for one of five: it never runs away from what a score can reach.

A budget rarer than calibration supports starts ``BEYOND_SUPPORT`` above what it does: a level further out on an extrapolated
tail would be a level that no fault of any size exceeds. A budget of an alarm in ``OFTEN`` window lengths or more (1 % of rows)
leaves no room for excursions: there each window counts by itself, and its quantile is tracked (Gibbs & Candès 2021).

What is claimed of a window, "one in N", is followed apart (``claims.py``). Everything runs in event time: the state holds the last
row, so skipped windows and different strides are accounted for. Decision 0018 has the measurements, decision 0005 those of the
tracker before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.compiled import kernel
from service.detectors.decision.budget_params import LEAST_MARGIN, BudgetParams
from service.domain import F64, I64

STEP = 0.2  # decades of -log10 p that an excursion leaves behind
AIM = 1.6  # real faults are onsets too: with 1 the false ones came to half of the budget
LASTING = 0.5  # the share of a step that only missing onsets take back
HALF_LIFE_DAYS = 2.0
ACCEPTED_AFTER_DAYS = 1.0
QUIET = 3  # windows within the level, a stride apart, that end an excursion
OFTEN_GAIN, OFTEN_AIM = 0.6, 1.5  # up by a factor 1.8 with each window above it
# After a gap the level falls for at most this many strides: rows that were not scored say nothing about what is normal.
MOST_SKIPPED = 10
# Strides without a scored window that end an excursion. An alert ends by its own gap, ``alerts.max_gap_seconds``.
LONGEST_GAP = 10

MARGIN_HALF_LIFE_DAYS = 14.0
FORMAT = 3  # of ``BudgetState``; states of format 1 held the logarithm of the level, those of format 2 no severities

Reason = Literal["within its level", "above its level", "above its level since the onset before"]
REASONS: tuple[Reason, Reason, Reason] = (
    "within its level",
    "above its level",
    "above its level since the onset before",
)
_WITHIN, _ONSET, _ABOVE = 0, 1, 2


class BudgetState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The tracker of one entity. Surprises unless said otherwise.

    ``level``: the level outside an excursion; ``base``: what it falls back to (the calibrated start, or what was accepted);
    ``row``: newest row seen, -1 before any; ``log_common``: what versions before claims followed; read by nothing. Of the open
    excursion: ``frozen``, the level at its onset (None where none is open); ``onset``: its first row; ``quiet``: windows within the
    level in a row; ``counted``: the row of the last one that counted; ``peak``: its highest surprise, falling by one decade a day.
    ``warning`` and ``critical``: how far above the level these severities begin; ``loudest``: 1 where the open excursion was a
    warning, 2 where it was critical.
    """

    level: float
    base: float | None = None
    row: int = -1
    log_common: float = 0.0
    frozen: float | None = None
    onset: int = -1
    quiet: int = 0
    counted: int = -1
    peak: float = 0.0
    format: int = 1
    warning: float = 0.0
    critical: float = 0.0
    loudest: int = 0


class BudgetDecision(msgspec.Struct, frozen=True):
    """The decision on one window. ``level``: the surprise above which it is anomalous; ``is_onset``: an excursion begins with it;
    ``warning`` and ``critical``: the surprises above which it is that severe."""

    level: float
    is_anomaly: bool
    reason: Reason
    is_onset: bool = False
    warning: float = 0.0
    critical: float = 0.0


class BudgetDecisions(msgspec.Struct, frozen=True):
    """Decisions on n windows as columns (n,): ``level``, ``warning`` and ``critical`` float64,
    ``is_anomaly`` and ``is_onset`` bool, ``code`` int8, an index into ``REASONS``."""

    level: F64
    is_anomaly: NDArray[np.bool_]
    code: NDArray[np.int8]
    warning: F64
    critical: F64

    @property
    def is_onset(self) -> NDArray[np.bool_]:
        """Where an excursion begins: what the budget counts."""
        onset: NDArray[np.bool_] = self.code == _ONSET
        return onset

    def __len__(self) -> int:
        return len(self.level)

    def __getitem__(self, at: int) -> BudgetDecision:
        level, warning, critical = (float(column[at]) for column in (self.level, self.warning, self.critical))
        code = int(self.code[at])
        return BudgetDecision(level, bool(self.is_anomaly[at]), REASONS[code], code == _ONSET, warning, critical)


def start(params: BudgetParams) -> BudgetState:
    """The state of a new entity: its level is the calibrated one."""
    return BudgetState(params.start, params.start, format=FORMAT, warning=params.warning.start, critical=params.critical.start)


def current(state: BudgetState, params: BudgetParams) -> BudgetState:
    """The state as this version keeps it. Of one of format 1 only the row is kept, its level starts anew; of one of format 2,
    severities start anew."""
    if state.format == FORMAT:
        return state
    if state.format == 2:
        return msgspec.structs.replace(state, format=FORMAT, warning=params.warning.start, critical=params.critical.start)
    return msgspec.structs.replace(start(params), row=state.row)


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
    held = np.array([msgspec.structs.astuple(state) for state in states], np.float64).reshape(len(states), len(_FIELDS))
    level, warning, critical = np.empty((3, len(slots)))
    code = np.empty(len(slots), np.int8)
    surprises = np.asarray(surprises, np.float64)
    constants = (params.stride, params.rate, params.floor, params.day, params.often)
    margins = np.array([msgspec.structs.astuple(margin) for margin in (params.warning, params.critical)])
    _track(slots, rows, surprises, *constants, margins, held, level, code, warning, critical)
    decisions = BudgetDecisions(level, code != _WITHIN, code, level + warning, level + critical)
    return [_state(fields) for fields in held.tolist()], decisions


def _state(fields: Sequence[float]) -> BudgetState:
    level, base, row, log_common, frozen, onset, quiet, counted, peak, _, warning, critical, loudest = fields
    opened = None if math.isnan(frozen) else frozen
    whole = int(onset), int(quiet), int(counted)
    return BudgetState(level, base, int(row), log_common, opened, *whole, peak, FORMAT, warning, critical, int(loudest))


_FIELDS = BudgetState.__struct_fields__
(
    _LEVEL,
    _BASE,
    _ROW,
    _,
    _FROZEN,
    _ONSET_ROW,
    _QUIET,
    _COUNTED,
    _PEAK,
    _,
    _WARNING,
    _CRITICAL,
    _LOUDEST,
) = range(len(_FIELDS))


@kernel
def _close(state: F64) -> None:
    """End the excursion: the level is as at its onset plus one step, and so is that of each severity it reached."""
    state[_LEVEL], state[_FROZEN] = state[_FROZEN] + STEP, math.nan
    state[_BASE] += LASTING * STEP
    _raise_margins(state)


@kernel
def _raise_margins(state: F64) -> None:
    for severity in range(int(state[_LOUDEST])):
        state[_WARNING + severity] += STEP
    state[_LOUDEST] = 0.0


@kernel
def _fall_margins(state: F64, margins: F64, passed: float, day: float) -> None:
    """What the last excursions added decays; beyond that, severities that never come begin lower, at their budget's pace."""
    for severity in range(2):
        rate, start, least = margins[severity]
        margin = state[_WARNING + severity] - STEP * rate * passed
        if margin > start:
            margin = start + (margin - start) * 0.5 ** (passed / (MARGIN_HALF_LIFE_DAYS * day))
        state[_WARNING + severity] = max(margin, least)


@kernel
def _track(
    slots: I64,
    rows: I64,
    surprises: F64,
    stride: int,
    rate: float,
    floor: float,
    day: float,
    often: bool,
    margins: F64,
    held: F64,
    level: F64,
    code: NDArray[np.int8],
    warning: F64,
    critical: F64,
) -> None:
    for i in range(slots.shape[0]):
        state, row, surprise = held[slots[i]], rows[i], surprises[i]
        elapsed = row - int(state[_ROW]) if state[_ROW] >= 0.0 else stride
        passed = min(elapsed, MOST_SKIPPED * stride)
        state[_ROW] = row
        if not math.isnan(state[_FROZEN]) and elapsed > LONGEST_GAP * stride:
            _close(state)
        if often:
            level[i] = state[_LEVEL]
            above = surprise > level[i]
            code[i] = _ONSET if above else _WITHIN
            rise = (OFTEN_GAIN if above else 0.0) - OFTEN_GAIN * OFTEN_AIM * rate * passed
            state[_LEVEL] = max(state[_LEVEL] * math.exp(rise), floor)
        elif math.isnan(state[_FROZEN]):
            fall = STEP * AIM * rate * passed
            _fall_margins(state, margins, passed, day)
            state[_BASE] = max(state[_BASE] - LASTING * fall, floor)
            lower = state[_LEVEL] - fall
            if lower > state[_BASE]:
                lower = state[_BASE] + (lower - state[_BASE]) * 0.5 ** (passed / (HALF_LIFE_DAYS * day))
            state[_LEVEL] = level[i] = max(lower, floor)
            code[i] = _WITHIN
            if surprise > level[i]:
                code[i] = _ONSET
                state[_FROZEN], state[_PEAK] = level[i], surprise
                state[_ONSET_ROW] = state[_COUNTED] = row
                state[_QUIET] = 0.0
        else:
            level[i] = state[_FROZEN]
            above = surprise > level[i]
            code[i] = _ABOVE if above else _WITHIN
            state[_PEAK] = max(surprise, state[_PEAK] - passed / day)
            if row - state[_COUNTED] >= stride:
                state[_COUNTED] = row
                state[_QUIET] = 0.0 if above else state[_QUIET] + 1.0
            elif above:
                state[_QUIET] = 0.0
            if row - state[_ONSET_ROW] >= ACCEPTED_AFTER_DAYS * day:
                state[_LEVEL] = state[_BASE] = max(state[_FROZEN] + STEP, state[_PEAK])
                state[_FROZEN] = math.nan
                _raise_margins(state)
            elif state[_QUIET] >= QUIET:
                _close(state)
        warning[i], critical[i] = state[_WARNING], max(state[_CRITICAL], state[_WARNING] + LEAST_MARGIN)
        if not math.isnan(state[_FROZEN]):
            reached = 2.0 if surprise > level[i] + critical[i] else 1.0 if surprise > level[i] + warning[i] else 0.0
            state[_LOUDEST] = max(state[_LOUDEST], reached)
