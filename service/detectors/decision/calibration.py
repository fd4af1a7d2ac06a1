"""From raw scores to calibrated tail probabilities (section "Calibrated score" of docs/architecture.md).

Inside the calibration scores the tail probability is empirical; above their upper tenth (less where there are many) it
follows a generalised Pareto tail (Pickands 1975; Balkema & de Haan 1974), fitted by probability-weighted moments (Hosking &
Wallis 1987) with its shape floored at exponential: a bounded tail (ξ < 0) would make everything above the largest
calibration score impossible.

Overlapping windows are not independent evidence, so the calibration counts for ``n_eff = rows / window`` observations, and ``p``
is never below ``1 / (10 · n_eff)``: a short calibration claims nothing rare. ``decades`` is the same curve without that floor,
strictly rising in the raw score, so that scores above the calibration maximum do not tie; detectors are combined by it.
``surprise`` is what levels and claims are made of: the same up to ``STRAIGHT`` decades, bent beyond, and below ``MOST_SURPRISE``
for any raw score.

What happens with unusual calibration sets:

- *Ties*: the tail probability of a value that many calibration windows share is that of being at least that value.
- *Constant scores*: anything up to the constant has p ≈ 1; anything above it gets the floor, or close to it: the tail's
  scale is then a thousandth of the constant. What begins to move after that is millions of decades out; bent, its surprise stays
  within reach of the level, and a stronger fault still has a higher one.
- *Short sets*: fewer than ``LEAST_SCORES`` windows raise ``NotEnoughData``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from service.domain import F64
from service.errors import NotEnoughData

LEAST_SCORES = 30
# The tail is shaped by the scores of about 50 independent windows: the upper tenth of a short calibration, the upper
# hundredth of a very long one (the further out, the better the limit holds that makes it Pareto).
TAIL_INDEPENDENT = 50
TAIL_SHARES = (0.01, 0.1)
TAIL_LEAST = 10
# Above this the mean of a generalised Pareto tail does not exist and moments say nothing.
SHAPE_MOST = 0.9
# The smallest probability that n independent windows support is 1 / (10 n).
FLOOR_FACTOR = 10.0
# Up to so many decades a surprise is what the tail says; beyond, it rises ever more slowly and never reaches the most.
STRAIGHT, MOST_SURPRISE = 20.0, 40.0
# Raw scores are cut to this, so that no arithmetic with them overflows.
LARGEST_RAW = 1e150


def bounded(decades: F64) -> F64:
    """The surprises of tail probabilities given in decades (n,): equal up to ``STRAIGHT``, strictly rising, below
    ``MOST_SURPRISE``. Twice as many decades are a visibly higher surprise however many there are (decision 0021)."""
    room = MOST_SURPRISE - STRAIGHT
    over = np.maximum(decades - STRAIGHT, 0.0) / room
    bent: F64 = np.where(over > 0.0, MOST_SURPRISE - room / (1.0 + np.log1p(over)), decades)
    return bent


class Calibration:
    """The distribution of one raw score over normal windows that training did not see."""

    def __init__(self, scores: F64, n_eff: float) -> None:
        """``scores``: float64 (n,), raw, any order; ``n_eff``: calibration rows / window.

        Raises ``NotEnoughData`` for fewer than ``LEAST_SCORES`` scores and ``ValueError`` for scores that are not finite.
        """
        scores = np.sort(np.asarray(scores, np.float64))
        if len(scores) < LEAST_SCORES:
            raise NotEnoughData(
                f"Calibration needs at least {LEAST_SCORES} windows of normal data and got {len(scores)}.",
                hint="Train on more rows, or choose a shorter window.",
            )
        if not np.isfinite(scores).all():
            raise ValueError("calibration scores must be finite")
        scores = np.clip(scores, -LARGEST_RAW, LARGEST_RAW)
        self.n_eff = max(float(n_eff), 1.0)
        self.count = len(scores)
        # Knots of the curve: distinct scores, with the probability that a normal window scores at least as high.
        self._knots, first = np.unique(scores, return_index=True)
        self._log_tail = np.log((self.count - first) / (self.count + 1))
        self._fit_tail(scores)

    def _fit_tail(self, scores: F64) -> None:
        share = np.clip(TAIL_INDEPENDENT / self.n_eff, *TAIL_SHARES)
        most = int(np.clip(share * self.count, TAIL_LEAST, self.count // 2))
        # The tail starts at a knot, so that the curve is continuous there.
        at = int(np.searchsorted(self._knots, scores[self.count - most - 1], side="left"))
        at = min(at + 1, len(self._knots) - 1)  # the first score above it, or the largest where they all tie
        self.threshold = float(self._knots[at])
        self._log_at_threshold = float(self._log_tail[at])
        excess = scores[scores > self.threshold] - self.threshold
        least = 1e-3 * max(abs(self.threshold), 1e-9)
        self.shape, self.sigma = _pareto(excess) if len(excess) else (0.0, least)
        self.sigma = max(self.sigma, least)
        self._knots, self._log_tail = self._knots[: at + 1], self._log_tail[: at + 1]

    @property
    def floor(self) -> float:
        """The smallest tail probability that this calibration supports: ``1 / (10 · n_eff)``."""
        return 1.0 / (FLOOR_FACTOR * self.n_eff)

    def log_tail(self, raw: F64) -> F64:
        """Natural log of the tail probability of raw scores (n,), without the floor; strictly falling (to float64's resolution)."""
        raw = np.clip(np.asarray(raw, np.float64), -LARGEST_RAW, LARGEST_RAW)
        inside = np.interp(raw, self._knots, self._log_tail)
        reach = np.maximum(raw - self.threshold, 0.0) / self.sigma
        beyond = -np.log1p(self.shape * reach) / self.shape if self.shape > 0 else -reach
        # Below the smallest calibration score the probability approaches one without reaching it.
        lowest = self._knots[0]
        width = max(self.threshold - lowest, self.sigma)
        below = np.log1p(-np.exp(np.minimum(raw - lowest, 0.0) / width) / (self.count + 1))
        tail: F64 = np.where(raw > self.threshold, self._log_at_threshold + beyond, np.where(raw < lowest, below, inside))
        return tail

    def decades(self, raw: F64) -> F64:
        """``-log10`` of the tail probability of raw scores (n,), without the floor: strictly rising, without a bound."""
        decades: F64 = -self.log_tail(raw) / np.log(10.0)
        return decades

    def surprise(self, raw: F64) -> F64:
        """``decades`` of raw scores (n,), ``bounded``: for ranking, levels and claims."""
        return bounded(self.decades(raw))

    def evidence(self, raw: F64) -> F64:
        """``decades`` of raw scores (n,), reduced because the tail is estimated from ``n_eff`` windows only; detectors are
        compared by it.

        If the scale of an exponential tail was estimated from k independent observations, the next one has the Lomax tail
        ``(1 + t / k)^-k``, t being the exponent by the estimate alone (the posterior predictive with an uninformative prior of the
        scale). Far out that falls like a power, so a detector whose few calibration scores happened to be close together cannot
        dominate the others.
        """
        evidence: F64 = np.log1p(-self.log_tail(raw) / self.n_eff) * (self.n_eff / np.log(10.0))
        return evidence

    def p(self, raw: F64) -> F64:
        """Tail probability of raw scores (n,), never below ``floor``: what verdicts and alerts show."""
        floored: F64 = np.maximum(np.exp(self.log_tail(raw)), self.floor)
        return floored

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """JSON-safe settings and plain arrays."""
        settings = {
            "n_eff": self.n_eff,
            "count": self.count,
            "threshold": self.threshold,
            "log_at_threshold": self._log_at_threshold,
            "shape": self.shape,
            "sigma": self.sigma,
        }
        return settings, {"knots": self._knots, "log_tail": self._log_tail}

    @classmethod
    def restored(cls, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of ``state``."""
        self = cls.__new__(cls)
        self.n_eff, self.count = float(settings["n_eff"]), int(settings["count"])
        self.threshold, self._log_at_threshold = float(settings["threshold"]), float(settings["log_at_threshold"])
        self.shape, self.sigma = float(settings["shape"]), float(settings["sigma"])
        self._knots, self._log_tail = arrays["knots"], arrays["log_tail"]
        return self


def _pareto(excess: F64) -> tuple[float, float]:
    """Shape (≥ 0) and scale of a generalised Pareto distribution, by probability-weighted moments (Hosking & Wallis 1987)."""
    ordered = np.sort(excess)
    n = len(ordered)
    mean = float(ordered.mean())
    weighted = float(np.mean((1.0 - (np.arange(1, n + 1) - 0.35) / n) * ordered))
    spread = mean - 2.0 * weighted
    if spread <= 0:  # heavier than any tail that has a mean
        return SHAPE_MOST, mean * (1.0 - SHAPE_MOST)
    shape = 2.0 - mean / spread
    if shape <= 0.0:
        return 0.0, mean
    shape = min(shape, SHAPE_MOST)
    return shape, mean * (1.0 - shape)
