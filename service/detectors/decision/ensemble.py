"""Many members, one calibrated word: combine raw scores, and calibrate the result again.

The bundle keeps the calibration matrix (every member's raw score on every calibration window), so whichever members
survive at run time, the ensemble of just those has its own calibrated tail; it is worked out once per subset.

A member may stand *beside* the others. A mean asks how strange everything is together, and what a single witness saw is lost in it
however sure it is; such a witness is heard where its word, by itself, is ten times rarer (or so) than the word of all.

Combining is a plain function in ``COMBINATIONS``: raw scores of the members present, what calibration knows of them, and
their weights in; one number per window out, higher is stranger.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.detectors.decision import alert_budget
from service.detectors.decision.calibration import Calibration
from service.domain import F64, I64


class DetectorState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """All that detection remembers of one entity; small, and serialisable for the state topic.

    ``row``: end row of the newest window scored; ``tracker``: the alert-budget tracker's own state.
    """

    row: int
    tracker: alert_budget.BudgetState


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """What calibration knows of one member: its tail, and the centre and spread of its normal scores."""

    name: str
    weight: float
    calibration: Calibration
    centre: float
    spread: float


Combine = Callable[[Sequence[F64], Sequence[Member]], F64]


def by_scaled_mean(raw: Sequence[F64], members: Sequence[Member]) -> F64:
    """Weighted mean of ``(raw - median) / spread``, where 2.33 spreads lie between the calibration's median and its 99 %."""
    return _weighted([(one - member.centre) / member.spread for one, member in zip(raw, members, strict=True)], members)


def by_tail(raw: Sequence[F64], members: Sequence[Member]) -> F64:
    """Weighted mean of what the members' calibrated tails say (``Calibration.evidence``): Fisher's method, weighted."""
    return _weighted([member.calibration.evidence(one) for one, member in zip(raw, members, strict=True)], members)


def by_votes(raw: Sequence[F64], members: Sequence[Member]) -> F64:
    """Weighted share of members beyond mean + 3 sigma of their calibration: the plain rule of the literature."""
    return _weighted(
        [(one > member.centre + 3.0 * member.spread).astype(np.float64) for one, member in zip(raw, members, strict=True)], members
    )


def _weighted(parts: Sequence[F64], members: Sequence[Member]) -> F64:
    weights = np.array([member.weight for member in members])
    if not weights.any():
        weights = np.ones(len(members))
    combined: F64 = np.tensordot(weights / weights.sum(), np.stack(parts), axes=1)
    return combined


COMBINATIONS: Mapping[str, Combine] = {"tail": by_tail, "zscore": by_scaled_mean, "votes": by_votes}


class Ensemble:
    """Combines and calibrates; knows no detector, only their scores."""

    def __init__(
        self,
        weights: Mapping[str, float],
        matrix: F64,
        n_eff: float,
        *,
        combination: str = "tail",
        beside: Mapping[str, float] | None = None,
    ) -> None:
        """``matrix``: float64 (n, members), raw scores of calibration windows in the order of ``weights``; ``n_eff``: how many
        independent windows the rows they were taken from are worth, of which they may be every tenth or so. ``beside``: members
        that stand beside the combination of the others (their weight is 0): each overrules it where its evidence says so many
        decades more.

        Raises ``NotEnoughData`` when the matrix is too short to calibrate on, ``ValueError`` for a combination nobody knows.
        """
        if combination not in COMBINATIONS:
            raise ValueError(f"the combination {combination!r} is none of {', '.join(COMBINATIONS)}")
        self.weights = dict(weights)
        self.matrix = np.asarray(matrix, np.float64)
        self.n_eff = float(n_eff)
        self.combination = combination
        self.beside = dict(beside or {})
        self._members = {name: self._member(name, self.matrix[:, at]) for at, name in enumerate(self.weights)}
        self._tails: dict[tuple[str, ...], Calibration] = {}

    def _member(self, name: str, scores: F64) -> Member:
        centre, high = np.quantile(scores, [0.5, 0.99])
        spread = max((high - centre) / 2.33, 1e-3 * max(abs(centre), 1e-9))
        return Member(name, self.weights[name], Calibration(scores, self.n_eff), float(centre), float(spread))

    def member(self, name: str) -> Member:
        """What calibration knows of a member."""
        return self._members[name]

    def combine(self, raw: Mapping[str, F64]) -> F64:
        """One number per window from the members that spoke (at least one)."""
        beside = [name for name in self.beside if name in raw]
        together = [name for name in self._key(list(raw)) if name not in beside]
        told = [self._members[name].calibration.evidence(raw[name]) - self.beside[name] for name in beside]
        if together:
            members = [self._members[name] for name in together]
            combined = COMBINATIONS[self.combination]([raw[name] for name in together], members)
            if not told:
                return combined
            told.append(self.tail(together).surprise(combined))
        loudest: F64 = np.max(told, axis=0)
        return loudest

    def tail(self, names: Sequence[str]) -> Calibration:
        """The calibration of what ``combine`` gives for just these members."""
        key = self._key(names)
        if key not in self._tails:
            self._tails[key] = Calibration(self.calibration_scores(key), self.n_eff)
        return self._tails[key]

    def _key(self, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(name for name in self.weights if name in set(names))

    def calibration_scores(self, names: Sequence[str]) -> F64:
        """Float64 (n,): what ``combine`` gives for just these members on the calibration windows."""
        key = self._key(names)
        return self.combine({name: self.matrix[:, at] for at, name in enumerate(self.weights) if name in key})

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """What the bundle keeps."""
        settings = {"weights": self.weights, "n_eff": self.n_eff, "combination": self.combination, "beside": self.beside}
        return settings, {"matrix": self.matrix}

    @classmethod
    def restored(cls, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Ensemble:
        """The inverse of ``state``."""
        return cls(
            settings["weights"],
            arrays["matrix"],
            float(settings["n_eff"]),
            combination=settings["combination"],
            beside=settings["beside"],
        )

    def reweighted(self, weights: Mapping[str, float]) -> Ensemble:
        """The same calibration with other weights: a subset of the members, or a different balance. None stands beside them."""
        at = [list(self.weights).index(name) for name in weights]
        return Ensemble(weights, np.ascontiguousarray(self.matrix[:, at]), self.n_eff, combination=self.combination)


def slots_of(entities: Sequence[str]) -> tuple[I64, list[str]]:
    """Which of the distinct entities each window belongs to, int64 (n,), and their names in order of appearance."""
    found: dict[str, int] = {}
    slots = np.fromiter((found.setdefault(name, len(found)) for name in entities), np.int64, len(entities))
    return slots, list(found)
