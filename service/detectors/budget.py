"""The alert budget: a level per entity that follows drift, so that false alarms stay near what people accepted.

First form. The level that one window in a hundred exceeds is tracked online (online quantile tracking; Gibbs & Candès
2021 show the error rate it keeps) and extrapolated to the budget along the calibrated tail.
"""

from __future__ import annotations

import math

import msgspec

MS_PER_DAY = 86_400_000


class Params(msgspec.Struct, frozen=True):
    """``rate``: the share of windows that may be false alarms; ``tracked``: the share whose level is tracked; ``gain``: step."""

    rate: float
    tracked: float = 0.01
    gain: float = 0.4


class State(msgspec.Struct, frozen=True):
    """``tracked``: the surprise now exceeded by one window in a hundred; ``tokens``: onsets that may still be called."""

    tracked: float
    tokens: float = 1.0


class Decision(msgspec.Struct, frozen=True):
    """``level``: the surprise at which a window is anomalous now; ``shift``: how far drift moved it from its calibrated start."""

    level: float
    is_anomaly: bool
    reason: str
    shift: float = 0.0


def params_for(false_alarms_per_day: float, interval_ms: int, stride: int) -> Params:
    """Parameters for a budget of false alarms per entity and day, one window every ``stride`` rows."""
    windows = MS_PER_DAY / (interval_ms * stride)
    return Params(rate=min(false_alarms_per_day / windows, 0.1))


def start(params: Params) -> State:
    """The state of an entity never seen before."""
    return State(tracked=-math.log10(params.tracked))


def step(state: State, surprise: float, params: Params) -> tuple[State, Decision]:
    """Judge one window by its surprise, then let the tracker learn from it."""
    calm = -math.log10(params.tracked)
    shift = state.tracked - calm
    level = shift - math.log10(params.rate)
    over = surprise > level
    exceeded = surprise > state.tracked
    tracked = max(state.tracked + params.gain * ((1.0 if exceeded else 0.0) - params.tracked), 0.5 * calm)
    reason = f"surprise {surprise:.2f} {'above' if over else 'within'} level {level:.2f}"
    return State(tracked=tracked, tokens=state.tokens), Decision(level, over, reason, shift)
