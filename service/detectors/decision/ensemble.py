"""The ensemble: combines the members' raw scores into one score per window, and calibrates the result again.

The bundle keeps the calibration matrix (every member's raw score on every calibration window), so whichever members give scores at
run time, the ensemble of just those has its own calibrated tail; it is computed once per subset.

A member with ``overrides_by_decades`` has no weight; it overrides the combined score when its evidence is that many decades
stronger. In a weighted mean, strong evidence of one detector is lost among the others. A decade is a factor of ten in the tail
probability.

Combining is a plain function in ``COMBINATIONS``: raw scores, calibrations and weights of the members that gave scores in; one
number per window out, higher is stranger.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.detectors.decision import alert_budget
from service.detectors.decision.calibration import LARGEST_RAW, Calibration
from service.detectors.decision.claims import ClaimState
from service.domain import F64, I64


class DetectorState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The state that detection keeps of one entity, stored in the state topic.

    ``row``: end row of the newest window scored; ``tracker``: the state of its alert budget; ``claims``: what its claims follow
    from (as after training in states stored before there were any).
    """

    row: int
    tracker: alert_budget.BudgetState
    claims: ClaimState = ClaimState()


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """What calibration learned about one member: its weight, its tail, and the centre and spread of its normal scores."""

    name: str
    weight: float
    calibration: Calibration
    centre: float
    spread: float


Combine = Callable[[Sequence[F64], Sequence[Member]], F64]


def by_scaled_mean(raw: Sequence[F64], members: Sequence[Member]) -> F64:
    """Weighted mean of ``(raw - median) / spread``; the 99 % quantile of the calibration lies 2.33 spreads above its median."""
    scaled = [
        (np.clip(one, -LARGEST_RAW, LARGEST_RAW) - member.centre) / member.spread for one, member in zip(raw, members, strict=True)
    ]
    return _weighted_mean(scaled, members)


def by_tail(raw: Sequence[F64], members: Sequence[Member]) -> F64:
    """Weighted mean of the members' evidence (``Calibration.evidence``): Fisher's method (1925), weighted."""
    return _weighted_mean([member.calibration.evidence(one) for one, member in zip(raw, members, strict=True)], members)


def by_votes(raw: Sequence[F64], members: Sequence[Member]) -> F64:
    """Weighted share of members above mean + 3 sigma of their calibration: the plain rule of the literature."""
    return _weighted_mean(
        [(one > member.centre + 3.0 * member.spread).astype(np.float64) for one, member in zip(raw, members, strict=True)], members
    )


def _weighted_mean(parts: Sequence[F64], members: Sequence[Member]) -> F64:
    weights = np.array([member.weight for member in members])
    if not weights.any():
        weights = np.ones(len(members))
    combined: F64 = np.tensordot(weights / weights.sum(), np.stack(parts), axes=1)
    return combined


COMBINATIONS: Mapping[str, Combine] = {"tail": by_tail, "zscore": by_scaled_mean, "votes": by_votes}


class Ensemble:
    """Combines the members' scores and calibrates the result; it knows no detector, only their scores."""

    def __init__(
        self,
        weights: Mapping[str, float],
        matrix: F64,
        n_eff: float,
        *,
        combination: str = "tail",
        overrides_by_decades: Mapping[str, float] | None = None,
    ) -> None:
        """``matrix``: float64 (n, members), raw scores of calibration windows in the order of ``weights``; ``n_eff``: how many
        independent windows their rows count for (the n windows may be a subsample). ``combination``: a key of ``COMBINATIONS``.
        ``overrides_by_decades``: members of weight 0, with how many decades stronger than the combined score their evidence must be
        to override it.

        Raises ``NotEnoughData`` when the matrix is too short to calibrate on, ``ValueError`` for an unknown combination.
        """
        if combination not in COMBINATIONS:
            raise ValueError(f"the combination {combination!r} is none of {', '.join(COMBINATIONS)}")
        self.weights = dict(weights)
        self.matrix = np.clip(np.asarray(matrix, np.float64), -LARGEST_RAW, LARGEST_RAW)
        self.n_eff = float(n_eff)
        self.combination = combination
        self.overrides_by_decades = dict(overrides_by_decades or {})
        self._members = {name: self._member(name, self.matrix[:, at]) for at, name in enumerate(self.weights)}
        self._tails: dict[tuple[str, ...], Calibration] = {}

    def _member(self, name: str, scores: F64) -> Member:
        centre, high = np.quantile(scores, [0.5, 0.99])
        spread = max((high - centre) / 2.33, 1e-3 * max(abs(centre), 1e-9))
        return Member(name, self.weights[name], Calibration(scores, self.n_eff), float(centre), float(spread))

    def member(self, name: str) -> Member:
        """What calibration learned about a member. Raises ``KeyError`` for an unknown name."""
        return self._members[name]

    def combine(self, raw: Mapping[str, F64]) -> F64:
        """Float64 (n,): the combined score of each window. ``raw``: the scores (n,) of the members that gave some, one at least."""
        overriding = [name for name in self.overrides_by_decades if name in raw]
        weighted = [name for name in self._key(list(raw)) if name not in overriding]
        evidence = [self._members[name].calibration.evidence(raw[name]) - self.overrides_by_decades[name] for name in overriding]
        if weighted:
            members = [self._members[name] for name in weighted]
            combined = COMBINATIONS[self.combination]([raw[name] for name in weighted], members)
            if not evidence:
                return combined
            evidence.append(self.tail(weighted).decades(combined))
        strongest: F64 = np.max(evidence, axis=0)
        return strongest

    def tail(self, names: Sequence[str]) -> Calibration:
        """The calibration of the combined score of just these members."""
        key = self._key(names)
        if key not in self._tails:
            self._tails[key] = Calibration(self.calibration_scores(key), self.n_eff)
        return self._tails[key]

    def _key(self, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(name for name in self.weights if name in set(names))

    def calibration_scores(self, names: Sequence[str]) -> F64:
        """Float64 (n,): the combined score of just these members on the calibration windows."""
        key = self._key(names)
        return self.combine({name: self.matrix[:, at] for at, name in enumerate(self.weights) if name in key})

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """JSON-safe settings and plain arrays."""
        settings = {
            "weights": self.weights,
            "n_eff": self.n_eff,
            "combination": self.combination,
            "beside": self.overrides_by_decades,  # the name that bundles of format 6 store
        }
        return settings, {"matrix": self.matrix}

    @classmethod
    def restored(cls, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Ensemble:
        """The inverse of ``state``."""
        return cls(
            settings["weights"],
            arrays["matrix"],
            float(settings["n_eff"]),
            combination=settings["combination"],
            overrides_by_decades=settings["beside"],
        )

    def reweighted(self, weights: Mapping[str, float]) -> Ensemble:
        """The same calibration with other weights: all members or some. None of them overrides the others."""
        at = [list(self.weights).index(name) for name in weights]
        return Ensemble(weights, np.ascontiguousarray(self.matrix[:, at]), self.n_eff, combination=self.combination)


def slots_of(entities: Sequence[str]) -> tuple[I64, list[str]]:
    """Int64 (n,): the index of each window's entity among the distinct ones; and those, in order of appearance."""
    found: dict[str, int] = {}
    slots = np.fromiter((found.setdefault(name, len(found)) for name in entities), np.int64, len(entities))
    return slots, list(found)
