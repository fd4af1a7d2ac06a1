"""What was found of a batch's windows, as columns, and the words for one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from service.detectors.bundle import Bundle
from service.detectors.decision.alert_budget import BudgetDecisions
from service.detectors.decision.calibration import Calibration
from service.domain import F64, I64, MemberScore, MetricShare, SeverityBounds, Verdict, WindowBatch
from service.verdicts import Verdicts

Answers = Mapping[str, F64 | MemberScore]


@dataclass(frozen=True, eq=False)
class VerdictColumns:
    """Of the windows ``chosen`` (int64 (n,), places in the batch); every column has n entries.

    ``answers``: by member its raw scores, or why it has none; ``calibrations`` of those that spoke. ``p`` and ``scores`` are
    adjusted for drift, ``bounds`` say what score is how severe; ``metrics``: who is to blame, where that was asked.
    """

    chosen: I64
    answers: Answers
    calibrations: Mapping[str, Calibration]
    floor: float
    surprises: F64
    p: F64
    scores: F64
    bounds: SeverityBounds
    fresh: F64
    decisions: BudgetDecisions
    metrics: Mapping[int, tuple[MetricShare, ...]]

    @cached_property
    def _tails(self) -> Mapping[str, F64]:
        """What each member's raw scores mean, by itself; worked out when a first window is told of."""
        return {name: tail.p(self._raw(name)) for name, tail in self.calibrations.items()}

    def _raw(self, name: str) -> F64:
        raw = self.answers[name]
        assert not isinstance(raw, MemberScore)
        return raw

    def members(self, at: int) -> tuple[MemberScore, ...]:
        """Every member's word on window ``at``."""
        tails = self._tails
        return tuple(
            answer if isinstance(answer, MemberScore) else MemberScore(name, float(answer[at]), float(tails[name][at]))
            for name, answer in self.answers.items()
        )

    @property
    def silent(self) -> tuple[MemberScore, ...]:
        """The members that said nothing, and why."""
        return silent_of(self.answers)


def silent_of(answers: Answers) -> tuple[MemberScore, ...]:
    """Those of the answers that are no scores."""
    return tuple(answer for answer in answers.values() if isinstance(answer, MemberScore))


Unscored = tuple[str, tuple[MemberScore, ...]]  # why, and the members that said nothing


def verdicts(batch: WindowBatch, bundle: Bundle, judged: VerdictColumns | None, unscored: Mapping[int, Unscored]) -> Verdicts:
    """The verdicts on a whole batch: on the windows that were ``judged``, and, by place, on those that were not."""
    calm = np.zeros(len(batch), np.bool_)
    column = np.zeros(len(batch), np.int64)
    if judged is not None:
        calm[judged.chosen] = ~judged.decisions.is_anomaly
        column[judged.chosen] = np.arange(len(judged.chosen))

    def make(place: int) -> Verdict:
        if judged is None or place in unscored:
            return _bare(batch, bundle, place, *unscored[place])
        return _whole(batch, bundle, place, judged, int(column[place]))

    ends_ms: list[int] = (batch.end_rows * batch.schema.interval_ms).tolist()
    silent = judged.silent if judged is not None else ()
    return Verdicts(batch.entities, ends_ms, batch.partitions.tolist(), calm.tolist(), make, silent)


def _whole(batch: WindowBatch, bundle: Bundle, place: int, judged: VerdictColumns, at: int) -> Verdict:
    score = float(judged.scores[at])
    return Verdict(
        **_which(batch, bundle, place),
        surprise=float(judged.surprises[at]),
        level=float(judged.decisions.level[at]),
        shift=float(judged.decisions.shift[at]),
        common=float(judged.decisions.common[at]),
        p=float(judged.p[at]),
        floor=judged.floor,
        score=score,
        fresh_p=float(judged.fresh[at]),
        is_anomaly=bool(judged.decisions.is_anomaly[at]),
        severity=judged.bounds.of(score),
        members=judged.members(at),
        metrics=judged.metrics.get(at, ()),
    )


def _bare(batch: WindowBatch, bundle: Bundle, place: int, reason: str, members: tuple[MemberScore, ...]) -> Verdict:
    return Verdict(**_which(batch, bundle, place), not_scored=reason, members=members)


def _which(batch: WindowBatch, bundle: Bundle, place: int) -> dict[str, Any]:
    """What a verdict says of its window itself, scored or not."""
    interval, row = batch.schema.interval_ms, int(batch.end_rows[place])
    return {
        "entity": batch.entities[place],
        "end_row": row,
        "timestamp": row * interval,
        "stride": bundle.stride,
        "bundle": bundle.name,
        "bundle_version": bundle.version,
        "interval_ms": interval,
        "labels": batch.labels[place],
        "topic": batch.topic,
        "partition": int(batch.partitions[place]),
        "first_offset": int(batch.first_offsets[place]),
        "last_offset": int(batch.last_offsets[place]),
    }
