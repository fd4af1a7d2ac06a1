"""What the alert budget means for one model: rates per row, and the surprises at which levels start."""

from __future__ import annotations

import math

import msgspec

MS_PER_DAY = 86_400_000
BEYOND_SUPPORT = 0.3  # decades: twice as rare as the rarest that calibration supports
LEAST_SUPPORT = 3.3  # surprise: up to one window in 2,000 the tail of a short calibration is trusted as well
OFTEN = 5.0  # window lengths
MOST_OFTEN = 0.1  # alarms per window: higher budgets are cut to this
SEVERE_PER_DAY = (1 / 7, 1 / 30)  # accepted false warnings and criticals
LEAST_MARGIN = 0.2  # decades between the level of one severity and the next
# Decades beyond what the calibrated tail says, because operation drifts and a tail is extrapolated: decision 0020 has the figures.
WARNING_SAFETY, CRITICAL_SAFETY = 0.3, 1.2


class Margin(msgspec.Struct, frozen=True):
    """How far above the level of anomalies a severity begins, in decades of surprise. ``start``: for a new entity; ``least``: never
    less; ``rate``: accepted false alerts of this severity per row of one entity."""

    rate: float
    start: float
    least: float


class BudgetParams(msgspec.Struct, frozen=True):
    """What a budget means for one model.

    ``rate``: accepted alarms per row of one entity; ``start``: the level of a new entity (surprise); ``floor``: the least level;
    ``stride``: rows between windows; ``day``: rows of a day; ``often``: each window counts by itself; ``warning`` and ``critical``:
    where these severities begin.
    """

    rate: float
    start: float
    floor: float
    stride: int
    day: float
    often: bool
    warning: Margin
    critical: Margin


def params_for(
    alarms_per_day: float,
    interval_ms: int,
    stride: int,
    *,
    floor_p: float = 0.0,
    window: int = 100,
    severe_per_day: tuple[float, float] = SEVERE_PER_DAY,
) -> BudgetParams:
    """Parameters for a budget of alarms per entity and day: rows ``interval_ms`` apart, a ``window`` of rows every ``stride``.

    ``floor_p``: the smallest tail probability that the calibration supports (``Calibration.floor``); ``severe_per_day``: accepted
    false warnings and criticals.
    """
    day = MS_PER_DAY / interval_ms
    rate = min(alarms_per_day / day, MOST_OFTEN / stride)
    supported = math.inf if floor_p <= 0.0 else max(-math.log10(floor_p) + BEYOND_SUPPORT, LEAST_SUPPORT)
    calibrated = min(-math.log10(rate * stride), supported)
    # Not below what one calibration window in ten exceeds (less where a coarse stride puts the level itself near there): after an
    # unusually uniform stretch, ordinary windows must not become alarms.
    floor = min(1.0, 0.5 * calibrated)
    warning = _margin(rate, severe_per_day[0] / day, LEAST_MARGIN, WARNING_SAFETY)
    critical = _margin(rate, severe_per_day[1] / day, warning.least + LEAST_MARGIN, CRITICAL_SAFETY)
    return BudgetParams(rate, calibrated, floor, stride, day, rate * window * OFTEN >= 1.0, warning, critical)


def params_at(rate: float, stride: int = 1, *, floor_p: float = 0.0, window: int = 100, interval_ms: int = 60_000) -> BudgetParams:
    """Parameters for a budget of ``rate`` alarms per row."""
    return params_for(rate * MS_PER_DAY / interval_ms, interval_ms, stride, floor_p=floor_p, window=window)


def _margin(rate: float, severe_rate: float, least: float, safety: float) -> Margin:
    """Surprise is -log10 of a tail probability: alerts ten times as rare lie one decade further out, by calibration alone."""
    least = max(math.log10(rate / severe_rate), least)
    return Margin(severe_rate, least + safety, least)
