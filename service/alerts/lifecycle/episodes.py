"""The life of an alert as a pure state machine: verdicts in, numbered transitions out.

::

            anomalous                k of n, or critical            quiet, gap, other model
    (none) ──────────► pending ─────────────────────────► firing ──────────────────────────► resolved
                          │                                 │ raised · lowered · updated        ▲
                          └── quiet: resolved, never told   └── max_episode: accepted ──────────┘

*Evidence* is a window that is anomalous **and** whose newest ``stride`` rows are unusual by themselves. Windows overlap, so
one odd row makes ``window / stride`` windows anomalous in a row; it is fresh in only one of them. Counting evidence alone makes
k-of-n count disjoint rows, and lets an alert end when its cause ends instead of a window length later. An early window
(``early.py``) shares its newest rows with its neighbours: of windows less than a stride apart only one counts, one that is evidence
if there is any; the others still raise the alert.

Once open, windows are held against the level *frozen at onset*: the tracker behind ``verdict.level`` never freezes, so it would
otherwise talk itself out of a long anomaly. That is also why any anomalous window opens: by the next one the tracker may have
moved. After an alert closed, windows that are anomalous only through its old rows do not open another (``Closed``).
Time is event time; nothing here reads a clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from service.alerts.times import span_words
from service.domain import Action, Alert, Severity, Status, Verdict, alert_id
from service.rarity import rarity
from service.settings import EpisodeSettings
from service.verdicts import Verdicts

TOP_METRICS = 8
GAP_WINDOWS = 6  # a gap is never shorter than this many window ends
FIRST_UPDATE = 8  # windows; further "updated" transitions at twice the age of the one before, so their number is logarithmic


class Episode(msgspec.Struct, frozen=True, kw_only=True):
    """One open alert and what the state machine must remember of it. Rows are grid rows of ``interval_ms``.

    ``level``: surprise to exceed; from it, ``shift`` and ``common`` follow the scores; all three frozen at onset. ``counted_row``:
    the end of the newest window that counts; ``evidence``: one bit for each such window, newest lowest; ``quiet``: those without
    evidence in a row; ``age``: all of them. ``calm``: those in a row below the current severity's bound less the hysteresis, and
    ``calm_score`` the highest score among them.
    """

    alert: Alert
    interval_ms: int
    first_row: int
    last_row: int
    evidence_row: int
    counted_row: int = -1
    level: float
    shift: float
    common: float = 1.0
    peak_surprise: float
    evidence: int = 1
    quiet: int = 0
    calm: int = 0
    calm_score: float = 0.0
    age: int = 1
    next_update: int = FIRST_UPDATE
    severity_changes: int = 0


class Closed(msgspec.Struct, frozen=True, kw_only=True):
    """An alert that is over while its rows still lie in the windows; forgotten at the first window that is not anomalous.

    Until then a window opens a new alert only with fresh evidence, and after a long one was accepted as the new normal
    (``accepted``: its peak surprise) only above that.
    """

    accepted: float | None = None


class EpisodeState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What must survive a restart for one entity: the end (ms) of the newest window seen, and the open episode if any."""

    seen_until: int
    episode: Episode | None = None
    closed: Closed | None = None


class Ongoing(msgspec.Struct, frozen=True, gc=False):
    """What goes on with one entity: an open episode, or one just closed, or neither."""

    episode: Episode | None = None
    closed: Closed | None = None


class Assessment(msgspec.Struct, frozen=True, gc=False):
    """A window seen from an episode: its score, p and severity against the frozen level; ``loud``: anomalous and severe enough
    to matter; ``evidence``: loud, and its newest rows are unusual by themselves."""

    score: float
    p: float
    severity: Severity
    loud: bool
    evidence: bool


class Episodes:
    """Every entity's episode. Feed it verdicts in row order per entity; it returns the transitions they cause.

    ``config_hash`` (``Settings.config_hash()``) is written into every alert, so a history says which settings made it.
    """

    def __init__(self, policy: EpisodeSettings, config_hash: str = "") -> None:
        self._policy = policy
        self._config_hash = config_hash
        rarity(0.0, 1.0, 1.0, 0.0)  # compiles
        self._states: dict[str, EpisodeState] = {}

    def observe(self, verdicts: Sequence[Verdict]) -> list[Alert]:
        """The transitions these verdicts cause, in order. A window seen before (a replay after a restart) is ignored."""
        if not isinstance(verdicts, Verdicts):
            verdicts = Verdicts.of(verdicts)
        transitions: list[Alert] = []
        for at, (entity, end, calm) in enumerate(zip(verdicts.entities, verdicts.ends_ms, verdicts.within_level, strict=True)):
            state = self._states.get(entity)
            if state is not None and end <= state.seen_until:
                continue
            if calm and (state is None or state.episode is None):
                self._states[entity] = EpisodeState(end)  # what ``step`` would come to, without asking for the whole verdict
                continue
            before = Ongoing(state.episode, state.closed) if state is not None else Ongoing()
            after, caused = step(before, verdicts[at], self._policy, self._config_hash)
            self._states[entity] = EpisodeState(end, after.episode, after.closed)
            transitions += caused
        return transitions

    def acknowledge(self, alert_id: str, entity: str, author: str, now_ms: int, note: str = "") -> Alert | None:
        """Mark the entity's open alert as taken by ``author``; ``None`` when it is not open (any more) or taken already, so
        that the same words read again change nothing."""
        state = self._states.get(entity)
        episode = state.episode if state else None
        if state is None or episode is None or episode.alert.alert_id != alert_id:
            return None
        if episode.alert.acknowledged_by is not None:
            return None
        reason = f"acknowledged by {author}" + (f": {note}" if note else "")
        updated_at = max(now_ms, episode.alert.updated_at)
        alert = _next(episode.alert, "acknowledged", reason, acknowledged_by=author, updated_at=updated_at)
        self._states[entity] = EpisodeState(state.seen_until, msgspec.structs.replace(episode, alert=alert))
        return alert

    def close_idle(self, entities: Iterable[str], reason: str = "the entity stopped sending") -> list[Alert]:
        """Resolve the open alerts of entities that are being expired, and forget them."""
        transitions: list[Alert] = []
        for entity in entities:
            state = self._states.pop(entity, None)
            if state is not None and state.episode is not None:
                transitions.append(_resolve(state.episode, reason, state.seen_until))
        return transitions

    def state_of(self, entity: str) -> EpisodeState | None:
        """What to keep of an entity; None where it was never seen."""
        return self._states.get(entity)

    def snapshot(self) -> dict[str, EpisodeState]:
        """What to keep of every entity."""
        return dict(self._states)

    def restore(self, states: Mapping[str, EpisodeState]) -> None:
        """Take over what ``snapshot`` kept; entities not named stay as they are."""
        self._states.update(states)

    def forget(self, entities: Iterable[str]) -> None:
        """Drop entities another process took over; nothing is resolved."""
        for entity in entities:
            self._states.pop(entity, None)

    def open_alerts(self) -> list[Alert]:
        """The newest state of every open alert."""
        return [s.episode.alert for s in self._states.values() if s.episode is not None]


def step(standing: Ongoing, verdict: Verdict, policy: EpisodeSettings, config_hash: str = "") -> tuple[Ongoing, tuple[Alert, ...]]:
    """One verdict's effect on one entity: what goes on afterwards, and the transitions with their reasons.

    A window that could not be scored neither feeds nor resolves an episode; only a gap longer than ``max_gap_seconds``
    between scored windows, or another model, closes it from outside.
    """
    caused: tuple[Alert, ...] = ()
    if standing.episode is not None and (why := _cut_short(standing.episode, verdict, policy)) is not None:
        caused = (_resolve(standing.episode, why, verdict.timestamp),)
        standing = Ongoing()
    if verdict.not_scored is not None:
        return standing, caused
    if standing.episode is not None:
        after, more = _continue(standing.episode, verdict, policy)
    else:
        after, more = _open(standing.closed, verdict, policy, config_hash)
    return after, caused + more


def _cut_short(episode: Episode, verdict: Verdict, policy: EpisodeSettings) -> str | None:
    """Why this episode cannot go on with this verdict, or ``None``."""
    if verdict.not_scored is None and (verdict.bundle != episode.alert.bundle or verdict.interval_ms != episode.interval_ms):
        return f"another model ({verdict.bundle or 'unnamed'}) serves this entity now"
    silent_ms = verdict.end_row * verdict.interval_ms - episode.last_row * episode.interval_ms
    # on a slow grid, windows themselves lie further apart than max_gap_seconds
    longest_ms = max(policy.max_gap_seconds * 1000, GAP_WINDOWS * verdict.stride * verdict.interval_ms)
    if silent_ms > longest_ms:
        return f"no scored data for {span_words(silent_ms)}"
    return None


def _seen_from(onset: Verdict | Episode, verdict: Verdict, policy: EpisodeSettings, *, anomalous: bool) -> Assessment:
    """The verdict under the levels at the ``onset``, instead of those of now."""
    p = max(10 ** -rarity(verdict.surprise, onset.common, onset.level, onset.shift), verdict.floor, 1e-300)
    score = min(-math.log10(p) / 6, 1.0)
    severity = policy.bounds.of(score)
    fresh = verdict.fresh_p <= policy.fresh_p_below
    loud = anomalous and severity.rank >= Severity(policy.min_severity).rank
    return Assessment(score, p, severity, loud, loud and fresh)


def _open(closed: Closed | None, verdict: Verdict, policy: EpisodeSettings, config_hash: str) -> tuple[Ongoing, tuple[Alert, ...]]:
    told = _seen_from(verdict, verdict, policy, anomalous=verdict.is_anomaly)
    if not told.loud:
        return Ongoing(closed=closed if verdict.is_anomaly else None), ()
    if closed is not None and not (told.evidence and (closed.accepted is None or verdict.surprise > closed.accepted)):
        return Ongoing(closed=closed), ()
    first_row = verdict.end_row - verdict.stride + 1
    alert = Alert(
        alert_id=alert_id(verdict.entity, verdict.bundle, first_row),
        seq=1,
        action="opened",
        reason=f"{told.severity} score {told.score:.2f}, above this entity's level; waiting for more evidence",
        entity=verdict.entity,
        status=Status.PENDING,
        severity=told.severity,
        peak_severity=told.severity,
        started_at=first_row * verdict.interval_ms,
        updated_at=verdict.timestamp,
        score=told.score,
        peak_score=told.score,
        p=told.p,
        peak_p=told.p,
        metrics=verdict.metrics[:TOP_METRICS],
        members=verdict.members,
        bundle=verdict.bundle,
        bundle_version=verdict.bundle_version,
        config_hash=config_hash,
        labels=verdict.labels,
        topic=verdict.topic,
        partition=verdict.partition,
        first_offset=verdict.first_offset,
        last_offset=verdict.last_offset,
    )
    episode = Episode(
        alert=alert,
        interval_ms=verdict.interval_ms,
        first_row=first_row,
        last_row=verdict.end_row,
        evidence_row=verdict.end_row,
        counted_row=verdict.end_row,
        level=verdict.level,
        shift=verdict.shift,
        common=verdict.common,
        peak_surprise=verdict.surprise,
        evidence=int(told.evidence),
        quiet=int(not told.evidence),
    )
    fired = _fire(alert, 1, 1, policy) if told.evidence else None
    if fired is None:
        return Ongoing(episode), (alert,)
    return Ongoing(msgspec.structs.replace(episode, alert=fired)), (alert, fired)


def _continue(episode: Episode, verdict: Verdict, policy: EpisodeSettings) -> tuple[Ongoing, tuple[Alert, ...]]:
    told = _seen_from(episode, verdict, policy, anomalous=verdict.surprise > episode.level)
    episode = _absorb(episode, verdict, told, policy)
    alert = episode.alert
    lasted = (verdict.end_row - episode.first_row + 1) * episode.interval_ms
    if lasted >= policy.max_episode_seconds * 1000:
        resolved = _resolve(episode, f"accepted as the new normal after {span_words(lasted)}", verdict.timestamp)
        return Ongoing(closed=Closed(accepted=episode.peak_surprise)), (resolved,)
    if episode.quiet >= policy.resolve_after_windows:
        quiet_ms = (verdict.end_row - episode.evidence_row) * episode.interval_ms
        why = f"quiet for {span_words(quiet_ms)}"
        if alert.status is Status.PENDING:
            why += "; never enough evidence to tell anyone"
        closed = Closed() if verdict.is_anomaly else None
        return Ongoing(closed=closed), (_resolve(episode, why, verdict.timestamp),)
    if alert.status is Status.PENDING:
        changed = _fire(alert, episode.evidence.bit_count(), policy.fire_within, policy) if told.evidence else None
    else:
        episode, changed = _change(episode, told, policy, verdict)
    if changed is None:
        return Ongoing(episode), ()
    return Ongoing(msgspec.structs.replace(episode, alert=changed)), (changed,)


def _absorb(episode: Episode, verdict: Verdict, told: Assessment, policy: EpisodeSettings) -> Episode:
    """The episode with this window counted in; no transition yet."""
    alert = episode.alert
    facts: dict[str, object] = {"updated_at": verdict.timestamp, "score": told.score, "p": told.p, "labels": verdict.labels}
    if told.evidence:
        facts |= {"windows": alert.windows + 1, "last_offset": verdict.last_offset}
        if told.score >= alert.peak_score:
            facts |= {"peak_score": told.score, "peak_p": told.p}
        # By surprise, not by the score, which a short calibration holds level; and only a window that was explained.
        if verdict.metrics and verdict.surprise >= episode.peak_surprise:
            facts |= {"metrics": verdict.metrics[:TOP_METRICS], "members": verdict.members}
            facts |= {"bundle_version": verdict.bundle_version}
        if alert.status is Status.PENDING and told.severity.rank > alert.severity.rank:
            facts |= {"severity": told.severity, "peak_severity": told.severity}
    below = told.score < policy.bounds.below(alert.severity) - policy.severity_hysteresis
    episode = msgspec.structs.replace(
        episode,
        alert=msgspec.structs.replace(alert, **facts),
        last_row=verdict.end_row,
        evidence_row=verdict.end_row if told.evidence else episode.evidence_row,
        peak_surprise=max(episode.peak_surprise, verdict.surprise),
        calm=episode.calm if below else 0,
        calm_score=max(episode.calm_score, told.score) if below else 0.0,
    )
    return _count(episode, verdict, told, policy, below)


def _count(episode: Episode, verdict: Verdict, told: Assessment, policy: EpisodeSettings, below: bool) -> Episode:
    """The window counted, if it shares no fresh rows with the one counted last, or in its place if that was no evidence."""
    if verdict.end_row - episode.counted_row >= verdict.stride:
        return msgspec.structs.replace(
            episode,
            counted_row=verdict.end_row,
            evidence=((episode.evidence << 1) | told.evidence) & ((1 << policy.fire_within) - 1),
            quiet=0 if told.evidence else episode.quiet + 1,
            calm=episode.calm + below,
            age=episode.age + 1,
        )
    if told.evidence and not episode.evidence & 1:
        return msgspec.structs.replace(episode, counted_row=verdict.end_row, evidence=episode.evidence | 1, quiet=0)
    return episode


def _fire(alert: Alert, count: int, within: int, policy: EpisodeSettings) -> Alert | None:
    if alert.severity is Severity.CRITICAL:
        reason = f"critical score {alert.peak_score:.2f}"
    elif count >= policy.fire_after:
        reason = f"{count} of the last {within} windows unusual on their newest rows"
    else:
        return None
    return _next(alert, "fired", reason, status=Status.FIRING, fired_at=alert.updated_at)


def _change(episode: Episode, told: Assessment, policy: EpisodeSettings, verdict: Verdict) -> tuple[Episode, Alert | None]:
    """Severity raised at once, lowered with hysteresis, otherwise a sparse ``updated``."""
    alert, may_swing = episode.alert, episode.severity_changes < policy.max_severity_changes
    new_peak = told.severity.rank > alert.peak_severity.rank
    if told.evidence and told.severity.rank > alert.severity.rank and (may_swing or new_peak):
        reason = f"score rose to {told.score:.2f}: {alert.severity} to {told.severity}"
        peak = max(alert.peak_severity, told.severity, key=lambda severity: severity.rank)
        changed = _next(alert, "raised", reason, severity=told.severity, peak_severity=peak)
        return msgspec.structs.replace(episode, severity_changes=episode.severity_changes + 1, calm=0, calm_score=0.0), changed
    if may_swing and alert.severity.rank > 0 and episode.calm >= policy.resolve_after_windows:
        lower = policy.bounds.of(episode.calm_score)
        reason = f"score stayed at or below {episode.calm_score:.2f}: {alert.severity} to {lower}"
        changed = _next(alert, "lowered", reason, severity=lower)
        return msgspec.structs.replace(episode, severity_changes=episode.severity_changes + 1, calm=0, calm_score=0.0), changed
    if episode.age >= episode.next_update:
        lasted = (verdict.end_row - episode.first_row + 1) * episode.interval_ms
        changed = _next(alert, "updated", f"still unusual after {span_words(lasted)}")
        return msgspec.structs.replace(episode, next_update=episode.next_update * 2), changed
    return episode, None


def _resolve(episode: Episode, reason: str, updated_at: int) -> Alert:
    """The closing transition; the alert ended with its last evidence, not when we noticed."""
    ended = (episode.evidence_row + 1) * episode.interval_ms
    latest = max(updated_at, episode.alert.updated_at)
    return _next(episode.alert, "resolved", reason, status=Status.RESOLVED, ended_at=ended, updated_at=latest)


def _next(alert: Alert, action: Action, reason: str, **changes: object) -> Alert:
    return msgspec.structs.replace(alert, seq=alert.seq + 1, action=action, reason=reason, **changes)
