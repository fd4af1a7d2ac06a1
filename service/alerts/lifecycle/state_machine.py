"""The life of an alert as a pure state machine: one verdict in, the transitions it causes out.

::

            anomalous                k of n, or critical            quiet, gap, other model
    (none) ──────────► pending ─────────────────────────► firing ──────────────────────────► resolved
                          │                                 │ raised · lowered · updated        ▲
                          └── quiet: resolved, never sent   └── max_episode: accepted ──────────┘

*Evidence* is a window that is anomalous **and** whose newest ``stride`` rows are unusual by themselves. Windows overlap, so one odd
row makes ``window / stride`` windows in a row anomalous, but it is among the newest rows of only one. Counting evidence alone makes
k-of-n count disjoint rows, and lets an alert end when its cause ends instead of a window length later. An early window
(``early_windows.py``) shares its newest rows with its neighbours: of windows less than a stride apart only one counts, the one that
is evidence if there is any; the others can still raise severity and peak.

What creeps (a disk that fills, a leak) is never unusual on its newest rows alone, yet every window is anomalous. A window that lies
wholly behind the last evidence (and a stride for good measure) shares no row with it: it is evidence as well, *sustained*. A
pending alert therefore stays open while its windows are anomalous.

While an episode is open, windows are compared with the level *frozen at onset*: the tracker behind ``verdict.level`` follows the
scores, and would in time accept any long anomaly as normal. For the same reason any anomalous window opens an episode: by the next
one the level may have moved. After an alert has closed, windows that are anomalous only through its old rows open no other
(``ClosedEpisode``). Time is event time; nothing here reads a clock.
"""

from __future__ import annotations

import msgspec

from service.alerts.lifecycle.episode import Assessment, ClosedEpisode, Episode, EpisodePhase
from service.alerts.lifecycle.leading_metrics import named, newcomers, rows_since_onset
from service.alerts.times import every_days, span_words
from service.domain import Action, Alert, MetricShare, Severity, Status, Verdict, alert_id
from service.loudness import loudness
from service.rarity import rarity
from service.settings import EpisodeSettings

TOP_METRICS = 8
MOST_WIDENED = 4  # an alert tells of metrics that joined it so often
GAP_WINDOWS = 6  # a gap is never shorter than this many window ends


def step(
    before: EpisodePhase, verdict: Verdict, policy: EpisodeSettings, config_hash: str = ""
) -> tuple[EpisodePhase, tuple[Alert, ...]]:
    """One verdict's effect on one entity: its phase afterwards, and the transitions with their reasons.

    A window without a score is no evidence, and does not count as quiet either. An episode also ends with a gap between scored
    windows longer than ``max_gap_seconds``, or when another model serves the entity.
    """
    caused: tuple[Alert, ...] = ()
    if before.episode is not None and (why := _cut_short(before.episode, verdict, policy)) is not None:
        caused = (resolved_transition(before.episode, why, verdict.timestamp),)
        before = EpisodePhase()
    if verdict.not_scored is not None:
        return before, caused
    if before.episode is not None:
        after, more = _continue(before.episode, verdict, policy)
    else:
        after, more = _open(before.closed, verdict, policy, config_hash)
    return after, caused + more


def _cut_short(episode: Episode, verdict: Verdict, policy: EpisodeSettings) -> str | None:
    """Why this episode ends before this verdict is looked at, or ``None``."""
    if verdict.not_scored is None and (verdict.bundle != episode.alert.bundle or verdict.interval_ms != episode.interval_ms):
        return f"another model ({verdict.bundle or 'unnamed'}) serves this entity now"
    silent_ms = verdict.end_row * verdict.interval_ms - episode.last_row * episode.interval_ms
    # on a slow grid, windows themselves lie further apart than max_gap_seconds
    longest_ms = max(policy.max_gap_seconds * 1000, GAP_WINDOWS * verdict.stride * verdict.interval_ms)
    if silent_ms > longest_ms:
        return f"no scored data for {span_words(silent_ms)}"
    return None


def _assess(
    onset: Verdict | Episode, verdict: Verdict, policy: EpisodeSettings, *, anomalous: bool, last_evidence: int | None
) -> Assessment:
    """The verdict, judged by the level at the ``onset`` instead of the present one. ``last_evidence``: row of the evidence before
    (the onset's, where there was none yet); ``None`` where no alert came before."""
    p = max(10 ** -rarity(verdict.surprise, *onset.exceeded), verdict.floor, 1e-300)
    score = loudness(verdict.surprise, onset.level, onset.warning, onset.critical)
    severity = policy.bounds.of(score)
    fresh = verdict.fresh_p <= policy.fresh_p_below
    actionable = anomalous and severity.rank >= Severity(policy.min_severity).rank
    lies_behind = last_evidence is not None and 0 < verdict.window <= verdict.end_row - last_evidence - verdict.stride
    sustained = actionable and (lies_behind or (isinstance(onset, Episode) and onset.sustained))
    return Assessment(score, p, severity, actionable, actionable and (fresh or sustained), sustained)


def _open(
    closed: ClosedEpisode | None, verdict: Verdict, policy: EpisodeSettings, config_hash: str
) -> tuple[EpisodePhase, tuple[Alert, ...]]:
    last_evidence = closed.until_row if closed is not None else None
    seen = _assess(verdict, verdict, policy, anomalous=verdict.is_anomaly, last_evidence=last_evidence)
    if not seen.actionable:
        return EpisodePhase(closed=closed if verdict.is_anomaly else None), ()
    if closed is not None and not (seen.evidence and (closed.accepted is None or verdict.surprise > closed.accepted)):
        return EpisodePhase(closed=closed), ()
    first_row = verdict.end_row - verdict.stride + 1
    alert = Alert(
        alert_id=alert_id(verdict.entity, verdict.bundle, first_row),
        seq=1,
        action="opened",
        reason=f"{seen.severity} score {seen.score:.2f}, above this entity's level; waiting for more evidence",
        entity=verdict.entity,
        status=Status.PENDING,
        severity=seen.severity,
        peak_severity=seen.severity,
        started_at=(verdict.end_row - rows_since_onset(verdict.metrics, verdict.stride) + 1) * verdict.interval_ms,
        updated_at=verdict.timestamp,
        score=seen.score,
        peak_score=seen.score,
        p=seen.p,
        peak_p=seen.p,
        metrics=verdict.metrics[:TOP_METRICS],
        metrics_at=verdict.timestamp,
        members=verdict.members,
        bundle=verdict.bundle,
        bundle_version=verdict.bundle_version,
        config_hash=config_hash,
        labels=verdict.labels,
        topic=verdict.topic,
        partition=verdict.partition,
        first_offset=verdict.first_offset,
        last_offset=verdict.last_offset,
        interval_ms=verdict.interval_ms,
        model_trained_at=verdict.model_trained_at,
        calibrated_days=verdict.calibrated_days,
        resolve_after_ms=policy.resolve_after_windows * verdict.stride * verdict.interval_ms,
        every_days=every_days(seen.p, verdict.stride, verdict.interval_ms),
    )
    episode = Episode(
        alert=alert,
        interval_ms=verdict.interval_ms,
        first_row=first_row,
        last_row=verdict.end_row,
        evidence_row=verdict.end_row,
        counted_row=verdict.end_row,
        level=verdict.level,
        warning=verdict.warning,
        critical=verdict.critical,
        exceeded=verdict.exceeded,
        peak_surprise=verdict.surprise,
        evidence=int(seen.evidence),
        quiet=0,
        sustained=seen.sustained,
    )
    fired = _fire(episode, 1, policy) if seen.evidence else None
    if fired is None:
        return EpisodePhase(episode), (alert,)
    return EpisodePhase(_told(episode, fired)), (alert, fired)


def _told(episode: Episode, alert: Alert) -> Episode:
    """The episode once people are told of this state of its alert: later only other metrics are new to them."""
    names = {*episode.named, *named(alert.metrics), *named(alert.also)}
    return msgspec.structs.replace(episode, alert=alert, named=tuple(sorted(names)))


def _continue(episode: Episode, verdict: Verdict, policy: EpisodeSettings) -> tuple[EpisodePhase, tuple[Alert, ...]]:
    above = verdict.surprise > episode.level
    seen = _assess(episode, verdict, policy, anomalous=above, last_evidence=episode.evidence_row)
    leading = newcomers(verdict.metrics, episode.named) if seen.evidence else ()
    joined = tuple(metric for metric in leading if metric.name in episode.joining)
    episode = _absorb(episode, verdict, seen, policy, leading)
    alert = episode.alert
    lasted = (verdict.end_row - episode.first_row + 1) * episode.interval_ms
    if lasted >= policy.max_episode_seconds * 1000:
        resolved = resolved_transition(episode, f"accepted as the new normal after {span_words(lasted)}", verdict.timestamp)
        closed = ClosedEpisode(accepted=episode.peak_surprise, until_row=episode.evidence_row)
        return EpisodePhase(closed=closed), (resolved,)
    if episode.quiet >= policy.resolve_after_windows:
        quiet_ms = (verdict.end_row - episode.evidence_row) * episode.interval_ms
        why = f"quiet for {span_words(quiet_ms)}"
        if alert.status is Status.PENDING:
            why += "; never enough evidence to tell anyone"
        still = ClosedEpisode(until_row=episode.evidence_row) if verdict.is_anomaly else None
        return EpisodePhase(closed=still), (resolved_transition(episode, why, verdict.timestamp),)
    if alert.status is Status.PENDING:
        changed = _fire(episode, policy.fire_within, policy) if seen.evidence else None
    else:
        episode, changed = _change(episode, seen, policy, verdict, joined)
    if changed is None:
        return EpisodePhase(episode), ()
    if changed.action in ("fired", "widened"):
        return EpisodePhase(_told(episode, changed)), (changed,)
    return EpisodePhase(msgspec.structs.replace(episode, alert=changed)), (changed,)


def _absorb(
    episode: Episode, verdict: Verdict, seen: Assessment, policy: EpisodeSettings, leading: tuple[MetricShare, ...]
) -> Episode:
    """The episode with this window counted in; no transition yet. ``leading``: metrics that lead it and were not told."""
    alert = episode.alert
    facts: dict[str, object] = {"updated_at": verdict.timestamp, "score": seen.score, "p": seen.p, "labels": verdict.labels}
    if seen.evidence:
        facts |= {"windows": alert.windows + 1, "last_offset": verdict.last_offset}
        rarest = min(alert.peak_p, seen.p)
        facts |= {"peak_score": max(alert.peak_score, seen.score), "peak_p": rarest}
        facts |= {"every_days": every_days(rarest, verdict.stride, verdict.interval_ms)}
        # By surprise: after a short calibration many windows share the highest score. And only a window with an attribution.
        if verdict.metrics and verdict.surprise >= episode.peak_surprise:
            facts |= {"metrics": verdict.metrics[:TOP_METRICS], "metrics_at": verdict.timestamp, "members": verdict.members}
            facts |= {"bundle_version": verdict.bundle_version}
        if alert.status is Status.PENDING and seen.severity.rank > alert.severity.rank:
            facts |= {"severity": seen.severity, "peak_severity": seen.severity}
    below = seen.score < policy.bounds.below(alert.severity) - policy.severity_hysteresis
    episode = msgspec.structs.replace(
        episode,
        alert=msgspec.structs.replace(alert, **facts),
        last_row=verdict.end_row,
        evidence_row=verdict.end_row if seen.evidence else episode.evidence_row,
        sustained=episode.sustained or seen.sustained,
        peak_surprise=max(episode.peak_surprise, verdict.surprise),
        below_windows=episode.below_windows if below else 0,
        below_score=max(episode.below_score, seen.score) if below else 0.0,
    )
    return _count(episode, verdict, seen, policy, below, leading)


def _count(
    episode: Episode,
    verdict: Verdict,
    seen: Assessment,
    policy: EpisodeSettings,
    below: bool,
    leading: tuple[MetricShare, ...],
) -> Episode:
    """The window counted, if it shares no fresh rows with the one counted last, or in its place if that was no evidence. An
    anomalous window that is no evidence yet is not quiet either: a pending alert waits for more."""
    waits = seen.actionable and episode.alert.status is Status.PENDING
    if verdict.end_row - episode.counted_row >= verdict.stride:
        return msgspec.structs.replace(
            episode,
            counted_row=verdict.end_row,
            evidence=((episode.evidence << 1) | seen.evidence) & ((1 << policy.fire_within) - 1),
            quiet=0 if seen.evidence else episode.quiet + (not waits),
            below_windows=episode.below_windows + below,
            age=episode.age + 1,
            joining=tuple(metric.name for metric in leading),
        )
    if seen.evidence and not episode.evidence & 1:
        return msgspec.structs.replace(episode, counted_row=verdict.end_row, evidence=episode.evidence | 1, quiet=0)
    return episode


def _fire(episode: Episode, within: int, policy: EpisodeSettings) -> Alert | None:
    alert, count = episode.alert, episode.evidence.bit_count()
    if alert.severity is Severity.CRITICAL:
        reason = f"critical score {alert.peak_score:.2f}"
    elif count >= policy.fire_after and episode.sustained:
        lasted = (episode.last_row - episode.first_row + 1) * episode.interval_ms
        reason = f"unusual without a break for {span_words(lasted)}"
    elif count >= policy.fire_after:
        reason = f"{count} of the last {within} windows unusual on their newest rows"
    else:
        return None
    return next_transition(alert, "fired", reason, status=Status.FIRING, fired_at=alert.updated_at)


def _change(
    episode: Episode, seen: Assessment, policy: EpisodeSettings, verdict: Verdict, joined: tuple[MetricShare, ...]
) -> tuple[Episode, Alert | None]:
    """Severity raised at once; metrics that ``joined`` told; severity lowered with hysteresis; otherwise a sparse ``updated``."""
    alert, may_swing = episode.alert, episode.severity_changes < policy.max_severity_changes
    new_peak = seen.severity.rank > alert.peak_severity.rank
    if seen.evidence and seen.severity.rank > alert.severity.rank and (may_swing or new_peak):
        reason = f"score rose to {seen.score:.2f}: {alert.severity} to {seen.severity}"
        peak = max(alert.peak_severity, seen.severity, key=lambda severity: severity.rank)
        changed = next_transition(alert, "raised", reason, severity=seen.severity, peak_severity=peak)
        return msgspec.structs.replace(
            episode, severity_changes=episode.severity_changes + 1, below_windows=0, below_score=0.0
        ), changed
    if joined and episode.widened < MOST_WIDENED:
        names = ", ".join(metric.name for metric in joined)
        changed = next_transition(alert, "widened", f"now also {names}", also=alert.also + joined)
        return msgspec.structs.replace(episode, widened=episode.widened + 1), changed
    if may_swing and alert.severity.rank > 0 and episode.below_windows >= policy.resolve_after_windows:
        lower = policy.bounds.of(episode.below_score)
        reason = f"score stayed at or below {episode.below_score:.2f}: {alert.severity} to {lower}"
        changed = next_transition(alert, "lowered", reason, severity=lower)
        return msgspec.structs.replace(
            episode, severity_changes=episode.severity_changes + 1, below_windows=0, below_score=0.0
        ), changed
    if episode.age >= episode.next_update:
        lasted = (verdict.end_row - episode.first_row + 1) * episode.interval_ms
        changed = next_transition(alert, "updated", f"still unusual after {span_words(lasted)}")
        return msgspec.structs.replace(episode, next_update=episode.next_update * 2), changed
    return episode, None


def resolved_transition(episode: Episode, reason: str, updated_at: int) -> Alert:
    """The closing transition. The alert ended with its last evidence, which is earlier than when that was noticed."""
    ended = (episode.evidence_row + 1) * episode.interval_ms
    latest = max(updated_at, episode.alert.updated_at)
    return next_transition(episode.alert, "resolved", reason, status=Status.RESOLVED, ended_at=ended, updated_at=latest)


def next_transition(alert: Alert, action: Action, reason: str, **changes: object) -> Alert:
    """The alert after its next transition."""
    return msgspec.structs.replace(alert, seq=alert.seq + 1, action=action, reason=reason, **changes)
