"""From windows that are due to verdicts: members score in parallel threads, their scores become one calibrated decision.

Scaling, scoring and deciding run in threads, so the event loop stays free. A member that fails or exceeds the timeout is
named in the verdict with its reason and left out; the ensemble of the others has its own calibration.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.detectors.bundle import Bundle, BundledMember
from service.detectors.decision import alert_budget
from service.detectors.decision.budget_params import BudgetParams
from service.detectors.decision.claims import ClaimParams, Claims, ClaimState, follow
from service.detectors.decision.ensemble import DetectorState, Ensemble, slots_of
from service.detectors.decision.static_thresholds import static_decisions
from service.detectors.features.windows import Features
from service.detectors.verdict_columns import Answers, Unscored, VerdictColumns, members_without_score, verdicts
from service.domain import F64, I64, MemberScore, MemberState, MetricShare, SeverityBounds, WindowBatch
from service.errors import ConfigError
from service.loudness import loudnesses
from service.observability.tasks import retrieve_exception
from service.rarity import rarities
from service.settings import DetectionSettings
from service.verdicts import Verdicts

Result = TypeVar("Result")

TOP_METRICS = 10  # metrics that a verdict names, at most
LEAST_SHARE = 0.005  # the least share of a metric named after the first; less is shown as 0 %
RECENT_ROWS = 60  # newest rows of these metrics that a verdict shows
# Windows at most this far below their level (in surprise) get an attribution too: an episode may continue a little below it.
ATTRIBUTED_BELOW = 0.5
# The weight of ``Attribution`` in a metric's share; the members' own attributions have the rest. It is better at planted faults
# (0004).
ATTRIBUTION_WEIGHT = 0.9


class WindowScorer:
    """Scores the windows of any number of entities with one bundle; keeps a small state of each (``DetectorState``)."""

    def __init__(
        self,
        bundle: Bundle,
        settings: DetectionSettings | None = None,
        *,
        min_coverage: float = 0.5,
        bounds: SeverityBounds | None = None,
    ) -> None:
        """``min_coverage``: the share of a window's values, in [0, 1], that must have been observed for it to be scored;
        ``bounds``: the scores at which severities begin.

        Raises ``ConfigError`` when the settings name a detector that the bundle does not hold.
        """
        settings = settings or DetectionSettings()
        self.bundle = bundle
        self.min_coverage = min_coverage
        self._bounds = bounds or SeverityBounds()
        self._members, self._ensemble = _chosen(bundle, settings.detectors)
        self._budget = settings.budget
        tail = self._ensemble.tail([member.name for member in self._members])
        self._floor_p, self._n_eff = tail.floor, tail.n_eff
        self._rule = settings.rule
        self._timeout = settings.timeout_seconds
        self._threads = settings.threads
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="detect")
        self._overdue: dict[str, asyncio.Future[Any]] = {}  # by member: work that exceeded the timeout
        self._states: dict[str, DetectorState] = {}
        self._one_batch = asyncio.Lock()  # batches must not overlap: the states are read and then replaced

    async def detect(self, batch: WindowBatch) -> Verdicts:
        """One verdict per window, in the batch's order. Windows of one entity must come in row order, batch after batch."""
        async with self._one_batch:
            covered, features = await self._in_thread(self._prepare, batch)
            chosen = np.flatnonzero(covered >= self.min_coverage)
            unscored: dict[int, Unscored] = {
                at: Unscored(_uncovered(covered[at], self.min_coverage))
                for at in np.flatnonzero(covered < self.min_coverage).tolist()
            }
            columns = None
            if len(chosen):
                answers = dict(await asyncio.gather(*(self._score_with(member, features) for member in self._members)))
                without_score = members_without_score(answers)
                if len(without_score) == len(answers):
                    unscored |= dict.fromkeys(chosen.tolist(), Unscored("no detector could score it", without_score))
                else:
                    columns = await self._in_thread(self._decide, batch, chosen, features, answers)
            return verdicts(batch, self.bundle, columns, unscored)

    def state_of(self, entity: str) -> DetectorState | None:
        """The state of an entity; None where none of its windows was scored."""
        return self._states.get(entity)

    def snapshot(self) -> dict[str, DetectorState]:
        """The state of every entity."""
        return dict(self._states)

    def restore(self, states: Mapping[str, DetectorState]) -> None:
        """Take over the states of entities from another process."""
        params = self.budget_params()
        self._states.update(
            (name, DetectorState(state.row, alert_budget.current(state.tracker, params), state.claims))
            for name, state in states.items()
        )

    def budget_params(self) -> BudgetParams:
        """What the budget means for each entity now. A budget of all entities together is divided among those that the bundle
        was trained on, or among those scored here where they are more."""
        entities = max(len(self.bundle.scaler.entities), len(self._states))
        per_day = self._budget.per_entity_day(entities)
        return self.bundle.budget(per_day, floor_p=self._floor_p, severe_per_day=self._budget.severe_per_entity_day)

    def forget(self, entities: Iterable[str]) -> None:
        """Drop the states of the entities."""
        for name in entities:
            self._states.pop(name, None)

    def close(self) -> None:
        """End the threads; work that has not begun is cancelled."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, work: Callable[..., Result], *arguments: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)

    async def _score_with(self, member: BundledMember, features: Features) -> tuple[str, F64 | MemberScore]:
        overdue = self._overdue.get(member.name)
        if overdue is not None and not overdue.done():
            return member.name, _no_score(member.name, "timeout", "still busy with an earlier batch")
        working = asyncio.ensure_future(self._in_thread(member.detector.score, features))
        try:
            raw = await asyncio.wait_for(asyncio.shield(working), self._timeout)
        except TimeoutError:
            working.add_done_callback(retrieve_exception)
            self._overdue[member.name] = working
            self._replace_pool()
            return member.name, _no_score(member.name, "timeout", f"no answer within {self._timeout:g} s")
        except Exception as error:  # noqa: BLE001  # whatever a member raises, the others still score
            return member.name, _no_score(member.name, "failed", f"{type(error).__name__}: {error}")
        if len(raw) != len(features) or not np.isfinite(raw).all():
            return member.name, _no_score(member.name, "failed", "gave scores that are not finite, or not one per window")
        return member.name, raw

    def _replace_pool(self) -> None:
        # The overdue member keeps its thread until it is done; the others get new ones and do not wait for it.
        self._pool.shutdown(wait=False)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="detect")

    def _prepare(self, batch: WindowBatch) -> tuple[F64, Features]:
        """The observed share of each window, float64 (n,), and the features of those with ``min_coverage``."""
        if batch.mask.all():
            return np.ones(len(batch)), self.bundle.scaler.transform(batch)
        covered: F64 = batch.mask.mean(axis=(1, 2), dtype=np.float64)
        features = self.bundle.scaler.transform(batch)
        whole = bool((covered >= self.min_coverage).all())
        return covered, features if whole else features.take(np.flatnonzero(covered >= self.min_coverage))

    def _decide(self, batch: WindowBatch, chosen: I64, features: Features, answers: Answers) -> VerdictColumns:
        raw = {name: answer for name, answer in answers.items() if not isinstance(answer, MemberScore)}
        tail = self._ensemble.tail(list(raw))
        entities = [batch.entities[at] for at in chosen]
        rows = batch.end_rows[chosen]
        surprises = tail.surprise(self._ensemble.combine(raw))
        decisions, claims = self._apply_rule(raw, entities, rows, surprises)
        attributed = np.flatnonzero(decisions.is_anomaly | (surprises > decisions.level - ATTRIBUTED_BELOW)).tolist()
        return VerdictColumns(
            chosen=chosen,
            answers=answers,
            calibrations={name: self._ensemble.member(name).calibration for name in raw},
            calibrated_days=claims.vouched * batch.schema.interval_ms * self.bundle.window / 86_400_000,
            surprises=surprises,
            claims=claims,
            p=np.clip(10.0 ** -rarities(surprises, claims.exceeded), claims.floor, 1.0),
            scores=loudnesses(surprises, decisions.level, decisions.warning, decisions.critical),
            bounds=self._bounds,
            newest_rows_p=self.bundle.newest_rows_calibration.p(self.bundle.newest_rows.score(features)),
            decisions=decisions,
            metrics=self._attribute(batch, chosen, features, raw, attributed),
        )

    def _apply_rule(
        self, raw: Mapping[str, F64], entities: Sequence[str], rows: I64, surprises: F64
    ) -> tuple[alert_budget.BudgetDecisions, Claims]:
        """Decide on windows and claim how rare they are; the entities' states then are those after the newest of them."""
        slots, names = slots_of(entities)
        params = self.budget_params()
        known = [self._states.get(name) for name in names]
        trackers = [alert_budget.start(params) if state is None else state.tracker for state in known]
        followed = [ClaimState() if state is None else state.claims for state in known]
        if self._rule == "budget":
            trackers, decisions = alert_budget.steps(trackers, slots, rows, surprises, params)
        else:
            decisions = static_decisions(self._rule, self._ensemble, raw, surprises, params)
        # Where each window counts by itself there are no incidents to leave out.
        incident = np.zeros(len(rows), np.bool_) if params.often else decisions.is_anomaly
        followed, claims = follow(followed, slots, rows, surprises, incident, self._claim_params(params.day))
        newest = dict(zip(entities, rows.tolist(), strict=True))  # windows of one entity come in row order
        self._states.update(
            (name, DetectorState(newest[name], tracker, state))
            for name, tracker, state in zip(names, trackers, followed, strict=True)
        )
        return decisions, claims

    def _claim_params(self, day: float) -> ClaimParams:
        return ClaimParams(n_eff=self._n_eff, window=self.bundle.window, stride=self.bundle.stride, day=day)

    def _attribute(
        self, batch: WindowBatch, chosen: NDArray[Any], features: Features, names: Container[str], which: Sequence[int]
    ) -> dict[int, tuple[MetricShare, ...]]:
        """The metrics with the largest shares in each of the windows ``which``; ``names``: the members that gave scores."""
        if not which:
            return {}
        some = features.take(np.array(which))
        shares = ATTRIBUTION_WEIGHT * self.bundle.attribution.shares(some)
        weights = self._ensemble.weights  # 0 for members that override: ``Attribution`` is better at what they find (0004)
        scoring = [member for member in self._members if member.name in names and weights[member.name]]
        total = sum(weights[member.name] for member in scoring)
        for member in scoring:
            parts = np.maximum(member.detector.attribute(some), 0.0)
            share = (1.0 - ATTRIBUTION_WEIGHT) * weights[member.name] / total
            shares += share * parts / np.maximum(parts.sum(axis=1, keepdims=True), 1e-12)
        shares /= np.maximum(shares.sum(axis=1, keepdims=True), 1e-12)
        return {i: self._top_metrics(batch, int(chosen[i]), shares[k]) for k, i in enumerate(which)}

    def _top_metrics(self, batch: WindowBatch, at: int, shares: F64) -> tuple[MetricShare, ...]:
        entity, names = batch.entities[at], batch.schema.metrics
        centre, spread = self.bundle.scaler.centre(entity), self.bundle.scaler.scale(entity)
        recent = batch.values[at, -RECENT_ROWS:]
        first, *others = np.argsort(-shares, kind="stable")[:TOP_METRICS]
        return tuple(
            MetricShare(
                name=names[j],
                share=float(shares[j]),
                actual=_number(recent[-1, j]),
                expected=float(centre[j]),
                spread=float(spread[j]),
                recent=tuple(_number(value) for value in recent[:, j]),
            )
            for j in (first, *(other for other in others if shares[other] >= LEAST_SHARE))
        )


def _chosen(bundle: Bundle, wanted: Mapping[str, float] | None) -> tuple[tuple[BundledMember, ...], Ensemble]:
    """The members and the ensemble to use; ``wanted``: weights by name, None for the bundle as trained."""
    if wanted is None:
        return bundle.members, bundle.ensemble
    held = {member.name: member for member in bundle.members}
    unknown = sorted(set(wanted) - set(held))
    if unknown or not wanted:
        raise ConfigError(
            f"detection.detectors names {', '.join(unknown) or 'nothing'}; the bundle {bundle.name} holds {', '.join(held)}.",
            hint="Name detectors that the bundle holds, or train a bundle that holds them.",
        )
    return tuple(held[name] for name in wanted), bundle.ensemble.reweighted(wanted)


def _uncovered(share: float, least: float) -> str:
    return f"only {share:.0%} of its values were observed (min_coverage is {least:.0%})"


def _no_score(name: str, state: MemberState, reason: str) -> MemberScore:
    return MemberScore(name=name, raw=None, p=None, state=state, reason=reason)


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
