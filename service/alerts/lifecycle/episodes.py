"""Every entity's episode: feeds verdicts to the state machine and keeps what it must remember between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from service.alerts.lifecycle.episode import EpisodePhase, EpisodeState
from service.alerts.lifecycle.state_machine import next_transition, resolved_transition, step
from service.domain import AS_CALIBRATED, Alert, Verdict
from service.rarity import rarity
from service.settings import EpisodeSettings
from service.verdicts import Verdicts


class Episodes:
    """Every entity's episode. Feed it verdicts in row order per entity; it returns the transitions they cause.

    ``config_hash`` (``Settings.config_hash()``) is written into every alert, so a history says which settings made it.
    """

    def __init__(self, policy: EpisodeSettings, config_hash: str = "") -> None:
        self._policy = policy
        self._config_hash = config_hash
        rarity(0.0, *AS_CALIBRATED)  # compiles
        self._states: dict[str, EpisodeState] = {}

    def observe(self, verdicts: Sequence[Verdict]) -> list[Alert]:
        """The transitions these verdicts cause, in order. A window seen before (a replay after a restart) is ignored."""
        if not isinstance(verdicts, Verdicts):
            verdicts = Verdicts.of(verdicts)
        transitions: list[Alert] = []
        for at, (entity, end, within) in enumerate(zip(verdicts.entities, verdicts.ends_ms, verdicts.within_level, strict=True)):
            state = self._states.get(entity)
            if state is not None and end <= state.seen_until:
                continue
            if within and (state is None or state.episode is None):
                self._states[entity] = EpisodeState(end)  # as ``step`` would give, without making the whole verdict
                continue
            before = EpisodePhase(state.episode, state.closed) if state is not None else EpisodePhase()
            after, caused = step(before, verdicts[at], self._policy, self._config_hash)
            self._states[entity] = EpisodeState(end, after.episode, after.closed)
            transitions += caused
        return transitions

    def acknowledge(self, alert_id: str, entity: str, author: str, now_ms: int, note: str = "") -> Alert | None:
        """The transition that acknowledges the entity's open alert for ``author``. ``None`` if that alert is not open, or is
        acknowledged already, so that a command may be applied twice."""
        state = self._states.get(entity)
        episode = state.episode if state else None
        if state is None or episode is None or episode.alert.alert_id != alert_id:
            return None
        if episode.alert.acknowledged_by is not None:
            return None
        reason = f"acknowledged by {author}" + (f": {note}" if note else "")
        updated_at = max(now_ms, episode.alert.updated_at)
        alert = next_transition(episode.alert, "acknowledged", reason, acknowledged_by=author, updated_at=updated_at)
        self._states[entity] = EpisodeState(state.seen_until, msgspec.structs.replace(episode, alert=alert))
        return alert

    def close_idle(self, entities: Iterable[str], reason: str = "the entity stopped sending") -> list[Alert]:
        """Resolve the open alerts of entities that have expired, and drop their state."""
        transitions: list[Alert] = []
        for entity in entities:
            state = self._states.pop(entity, None)
            if state is not None and state.episode is not None:
                transitions.append(resolved_transition(state.episode, reason, state.seen_until))
        return transitions

    def state_of(self, entity: str) -> EpisodeState | None:
        """The state of an entity to keep; ``None`` if it was never seen."""
        return self._states.get(entity)

    def snapshot(self) -> dict[str, EpisodeState]:
        """The state of every entity to keep."""
        return dict(self._states)

    def restore(self, states: Mapping[str, EpisodeState]) -> None:
        """Continue from what ``snapshot`` gave; entities that are not named stay as they are."""
        self._states.update(states)

    def forget(self, entities: Iterable[str]) -> None:
        """Drop entities that another process owns now; nothing is resolved."""
        for entity in entities:
            self._states.pop(entity, None)

    def open_alerts(self) -> list[Alert]:
        """The newest state of every open alert."""
        return [s.episode.alert for s in self._states.values() if s.episode is not None]
