"""The decisions on a batch of windows as columns, and the ``Verdict`` of one window made from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from service.detectors.bundle import Bundle
from service.detectors.decision.alert_budget import BudgetDecisions
from service.detectors.decision.calibration import Calibration
from service.detectors.decision.claims import Claims
from service.domain import F64, I64, MemberScore, MetricShare, SeverityBounds, Verdict, WindowBatch
from service.verdicts import Verdicts

Answers = Mapping[str, F64 | MemberScore]


@dataclass(frozen=True, eq=False)
class VerdictColumns:
    """The n windows that were scored, as columns (n,); ``chosen``: int64 (n,), their indices in the batch.

    ``answers``: by member its raw scores (n,), or why it has none; ``calibrations``: of the members with scores. ``surprises``:
    of the ensemble; ``claims`` and ``p``: what is claimed of them; ``scores``: how loud they are; ``calibrated_days``: days of
    normal operation that the claims rest on; ``bounds``: the scores at which severities begin; ``newest_rows_p``: tail probability
    of the newest rows alone; ``metrics``: the metrics with the largest shares, by index into the columns, for windows near or above
    their level.
    """

    chosen: I64
    answers: Answers
    calibrations: Mapping[str, Calibration]
    calibrated_days: F64
    surprises: F64
    claims: Claims
    p: F64
    scores: F64
    bounds: SeverityBounds
    newest_rows_p: F64
    decisions: BudgetDecisions
    metrics: Mapping[int, tuple[MetricShare, ...]]

    @cached_property
    def _tails(self) -> Mapping[str, F64]:
        """Each member's own tail probabilities (n,); computed when a first verdict is made."""
        return {name: tail.p(self._raw(name)) for name, tail in self.calibrations.items()}

    def _raw(self, name: str) -> F64:
        raw = self.answers[name]
        assert not isinstance(raw, MemberScore)
        return raw

    def members(self, at: int) -> tuple[MemberScore, ...]:
        """Every member's score of window ``at``."""
        tails = self._tails
        return tuple(
            answer if isinstance(answer, MemberScore) else MemberScore(name, float(answer[at]), float(tails[name][at]))
            for name, answer in self.answers.items()
        )


def members_without_score(answers: Answers) -> tuple[MemberScore, ...]:
    """The members that gave no scores, with their reasons."""
    return tuple(answer for answer in answers.values() if isinstance(answer, MemberScore))


class Unscored(NamedTuple):
    """Why a window has no score, and the members that failed to give one."""

    reason: str
    members: tuple[MemberScore, ...] = ()


def verdicts(batch: WindowBatch, bundle: Bundle, columns: VerdictColumns | None, unscored: Mapping[int, Unscored]) -> Verdicts:
    """The verdicts on a whole batch; ``columns``: of the windows that were scored; ``unscored``: the others, by index."""
    within_level = np.zeros(len(batch), np.bool_)
    column_of = np.zeros(len(batch), np.int64)
    if columns is not None:
        within_level[columns.chosen] = ~columns.decisions.is_anomaly
        column_of[columns.chosen] = np.arange(len(columns.chosen))

    def make(place: int) -> Verdict:
        if columns is None or place in unscored:
            return _without_score(batch, bundle, place, unscored[place])
        return _with_score(batch, bundle, place, columns, int(column_of[place]))

    ends_ms: list[int] = (batch.end_rows * batch.schema.interval_ms).tolist()
    without_score = members_without_score(columns.answers) if columns is not None else ()
    return Verdicts(batch.entities, ends_ms, batch.partitions.tolist(), within_level.tolist(), make, without_score)


def _with_score(batch: WindowBatch, bundle: Bundle, place: int, columns: VerdictColumns, at: int) -> Verdict:
    score = float(columns.scores[at])
    return Verdict(
        **_window_fields(batch, bundle, place),
        surprise=float(columns.surprises[at]),
        level=float(columns.decisions.level[at]),
        warning=float(columns.decisions.warning[at]),
        critical=float(columns.decisions.critical[at]),
        exceeded=tuple(columns.claims.exceeded[at].tolist()),
        p=float(columns.p[at]),
        floor=float(columns.claims.floor[at]),
        calibrated_days=float(columns.calibrated_days[at]),
        score=score,
        fresh_p=float(columns.newest_rows_p[at]),
        is_onset=bool(columns.decisions.is_onset[at]),
        is_anomaly=bool(columns.decisions.is_anomaly[at]),
        severity=columns.bounds.of(score),
        members=columns.members(at),
        metrics=columns.metrics.get(at, ()),
    )


def _without_score(batch: WindowBatch, bundle: Bundle, place: int, unscored: Unscored) -> Verdict:
    return Verdict(**_window_fields(batch, bundle, place), not_scored=unscored.reason, members=unscored.members)


def _window_fields(batch: WindowBatch, bundle: Bundle, place: int) -> dict[str, Any]:
    """The fields of a verdict that describe its window, scored or not."""
    interval, row = batch.schema.interval_ms, int(batch.end_rows[place])
    return {
        "entity": batch.entities[place],
        "end_row": row,
        "timestamp": row * interval,
        "stride": bundle.stride,
        "window": bundle.window,
        "bundle": bundle.name,
        "bundle_version": bundle.version,
        "interval_ms": interval,
        "model_trained_at": bundle.trained_at,
        "labels": batch.labels[place],
        "topic": batch.topic,
        "partition": int(batch.partitions[place]),
        "first_offset": int(batch.first_offsets[place]),
        "last_offset": int(batch.last_offsets[place]),
    }
