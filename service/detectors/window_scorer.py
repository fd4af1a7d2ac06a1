"""From windows that are due to verdicts: members side by side in threads, one calibrated word, adjusted for drift.

The event loop only waits: scaling, scoring and judging all run in threads. A member that fails, is late or was never
trained is named in the verdict with its reason and left out; the ensemble of the others has its own calibration.
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
from service.detectors.decision.calibration import score_of
from service.detectors.decision.ensemble import DetectorState, slots_of
from service.detectors.decision.static_thresholds import static_decisions
from service.detectors.features.windows import Features
from service.detectors.verdict_columns import Answers, Unscored, VerdictColumns, silent_of, verdicts
from service.domain import F64, I64, MemberScore, MetricShare, SeverityBounds, WindowBatch
from service.errors import ConfigError
from service.rarity import rarities
from service.settings import DetectionSettings
from service.verdicts import Verdicts

Result = TypeVar("Result")

# How many metrics a verdict names (after the first only with so much of the blame), and how many of their newest rows it shows.
TOP_METRICS = 10
LEAST_SHARE = 0.005  # less reads as 0 %
RECENT_ROWS = 60
# Windows this close to their level (in surprise) are explained too: an episode may go on a little below it.
NEARLY = 0.5
# How much of the blame the explainer shares out; the members have the rest. Of the two it names planted faults better (0004).
EXPLAINER = 0.9


class WindowScorer:
    """One bundle at work on any number of entities; remembers a little of each (``DetectorState``)."""

    def __init__(
        self,
        bundle: Bundle,
        settings: DetectionSettings | None = None,
        *,
        min_coverage: float = 0.5,
        bounds: SeverityBounds | None = None,
    ) -> None:
        """``min_coverage``: the least share of a window's values that must have been observed for a score; ``bounds``: what
        score is how severe.

        Raises ``ConfigError`` when the settings name a detector that the bundle does not hold.
        """
        settings = settings or DetectionSettings()
        self.bundle = bundle
        self.min_coverage = min_coverage
        self._bounds = bounds or SeverityBounds()
        self._members, self._ensemble = _chosen(bundle, settings.detectors)
        self._params = alert_budget.params_for(
            settings.budget.false_alarms_per_entity_day, bundle.schema.interval_ms, bundle.stride
        )
        self._rule = settings.rule
        self._timeout = settings.timeout_seconds
        self._threads = settings.threads
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="detect")
        self._late: dict[str, asyncio.Future[Any]] = {}
        self._states: dict[str, DetectorState] = {}
        self._turn = asyncio.Lock()

    async def detect(self, batch: WindowBatch) -> Verdicts:
        """One verdict per window, in the batch's order. Windows of one entity must come in row order, batch after batch."""
        async with self._turn:
            covered, features = await self._in_thread(self._prepare, batch)
            chosen = np.flatnonzero(covered >= self.min_coverage)
            unscored: dict[int, Unscored] = {
                at: (_uncovered(covered[at], self.min_coverage), ()) for at in np.flatnonzero(covered < self.min_coverage).tolist()
            }
            judged = None
            if len(chosen):
                answers = dict(await asyncio.gather(*(self._ask(member, features) for member in self._members)))
                silent = silent_of(answers)
                if len(silent) == len(answers):
                    unscored |= dict.fromkeys(chosen.tolist(), ("no detector could score it", silent))
                else:
                    judged = await self._in_thread(self._judge, batch, chosen, features, answers)
            return verdicts(batch, self.bundle, judged, unscored)

    def state_of(self, entity: str) -> DetectorState | None:
        """What is remembered of an entity; None where it was never scored."""
        return self._states.get(entity)

    def snapshot(self) -> dict[str, DetectorState]:
        """What is remembered of every entity."""
        return dict(self._states)

    def restore(self, states: Mapping[str, DetectorState]) -> None:
        """Take over what another process remembered."""
        self._states.update(states)

    def begin_anew(self, entity: str, tracker: alert_budget.BudgetState) -> None:
        """Take over what another version of the bundle remembered: the rest of the alert budget. The level, which means
        something else for every calibration, begins where this one puts it."""
        fresh = alert_budget.start(self._params)
        self._states[entity] = DetectorState(-1, alert_budget.BudgetState(fresh.z, min(tracker.tokens, self._params.most_tokens)))

    def forget(self, entities: Iterable[str]) -> None:
        """Drop what is remembered of the entities."""
        for name in entities:
            self._states.pop(name, None)

    def close(self) -> None:
        """Let the threads go."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, work: Callable[..., Result], *arguments: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)

    async def _ask(self, member: BundledMember, features: Features) -> tuple[str, F64 | MemberScore]:
        late = self._late.get(member.name)
        if late is not None and not late.done():
            return member.name, _silent(member.name, "timeout", "still busy with an earlier batch")
        working = asyncio.ensure_future(self._in_thread(member.detector.score, features))
        try:
            raw = await asyncio.wait_for(asyncio.shield(working), self._timeout)
        except TimeoutError:
            working.add_done_callback(_consume)
            self._late[member.name] = working
            self._replace_pool()
            return member.name, _silent(member.name, "timeout", f"no answer within {self._timeout:g} s")
        except Exception as error:  # noqa: BLE001  # whatever a member raises, the others still speak
            return member.name, _silent(member.name, "failed", f"{type(error).__name__}: {error}")
        if len(raw) != len(features) or not np.isfinite(raw).all():
            return member.name, _silent(member.name, "failed", "gave scores that are not finite, or not one per window")
        return member.name, raw

    def _replace_pool(self) -> None:
        # The late member keeps its thread until it is done; the others get fresh ones and do not wait behind it.
        self._pool.shutdown(wait=False)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="detect")

    def _prepare(self, batch: WindowBatch) -> tuple[F64, Features]:
        """The observed share of each window, float64 (n,), and the features of those that have enough of it."""
        if batch.mask.all():
            return np.ones(len(batch)), self.bundle.scaler.transform(batch)
        covered: F64 = batch.mask.mean(axis=(1, 2), dtype=np.float64)
        features = self.bundle.scaler.transform(batch)
        whole = bool((covered >= self.min_coverage).all())
        return covered, features if whole else features.take(np.flatnonzero(covered >= self.min_coverage))

    def _judge(self, batch: WindowBatch, chosen: I64, features: Features, answers: Answers) -> VerdictColumns:
        raw = {name: answer for name, answer in answers.items() if not isinstance(answer, MemberScore)}
        tail = self._ensemble.tail(list(raw))
        entities = [batch.entities[at] for at in chosen]
        rows = batch.end_rows[chosen]
        surprises = tail.surprise(self._ensemble.combine(raw))
        decisions, trackers = self._decide(raw, entities, rows, surprises)
        newest = dict(zip(entities, rows.tolist(), strict=True))  # windows of one entity come in row order
        self._states.update((name, DetectorState(newest[name], tracker)) for name, tracker in trackers.items())
        rare = rarities(surprises, decisions.common, decisions.level, decisions.shift)
        p = np.clip(10.0**-rare, tail.floor, 1.0)
        explained = np.flatnonzero(decisions.is_anomaly | (surprises > decisions.level - NEARLY)).tolist()
        return VerdictColumns(
            chosen=chosen,
            answers=answers,
            calibrations={name: self._ensemble.member(name).calibration for name in raw},
            floor=tail.floor,
            surprises=surprises,
            p=p,
            scores=score_of(p),
            bounds=self._bounds,
            fresh=self.bundle.newest_rows_calibration.p(self.bundle.newest_rows.score(features)),
            decisions=decisions,
            metrics=self._explain(batch, chosen, features, raw, explained),
        )

    def _decide(
        self, raw: Mapping[str, F64], entities: Sequence[str], rows: I64, surprises: F64
    ) -> tuple[alert_budget.BudgetDecisions, dict[str, alert_budget.BudgetState]]:
        slots, names = slots_of(entities)
        known = (self._states.get(name) for name in names)
        trackers = [alert_budget.start(self._params) if state is None else state.tracker for state in known]
        if self._rule == "budget":
            trackers, decisions = alert_budget.steps(trackers, slots, rows, surprises, self._params)
        else:
            decisions = static_decisions(self._rule, self._ensemble, raw, surprises, self._params)
        return decisions, dict(zip(names, trackers, strict=True))

    def _explain(
        self, batch: WindowBatch, chosen: NDArray[Any], features: Features, names: Container[str], which: Sequence[int]
    ) -> dict[int, tuple[MetricShare, ...]]:
        """Who is to blame in each of the windows ``which``: the explainer's word, mostly, and that of the members that spoke."""
        if not which:
            return {}
        some = features.take(np.array(which))
        shares = EXPLAINER * self.bundle.attribution.shares(some)
        weights = self._ensemble.weights  # 0 for who stands beside the others: the explainer names better what it saw (0004)
        speaking = [member for member in self._members if member.name in names and weights[member.name]]
        total = sum(weights[member.name] for member in speaking)
        for member in speaking:
            parts = np.maximum(member.detector.attribute(some), 0.0)
            share = (1.0 - EXPLAINER) * weights[member.name] / total
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


def _chosen(bundle: Bundle, wanted: Mapping[str, float] | None) -> tuple[tuple[BundledMember, ...], Any]:
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


def _silent(name: str, state: Any, reason: str) -> MemberScore:
    return MemberScore(name=name, raw=None, p=None, state=state, reason=reason)


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _consume(done: asyncio.Future[Any]) -> None:
    # A late answer is not used, but its exception must be taken note of or asyncio complains when it is collected.
    if not done.cancelled():
        done.exception()
