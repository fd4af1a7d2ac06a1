"""Acknowledgements on their way to the episodes of this worker. Pure.

Every worker hears every acknowledgement. Most belong to another's entities, and one may come while its alert is still being
restored, so each is tried again between batches until it is done, or too old for any alert to be still open.
"""

from __future__ import annotations

from collections.abc import Iterable

from service.alerts.control.commands import Acknowledge, Command
from service.alerts.lifecycle.episodes import Episodes
from service.clock import Clock
from service.domain import Alert

MOST_WAITING = 10_000


class Acknowledgements:
    """``receive`` commands as they come, ``apply`` between batches. ``lifetime_ms``: how long one may wait for its alert."""

    def __init__(self, episodes: Episodes, *, clock: Clock, lifetime_ms: int) -> None:
        self._episodes = episodes
        self._clock = clock
        self._lifetime_ms = lifetime_ms
        self._waiting: dict[str, Acknowledge] = {}  # by alert; the first one counts

    def receive(self, commands: Iterable[Command]) -> None:
        """Keep what could still matter; the oldest go first when there are too many."""
        oldest = self._clock.now_ms() - self._lifetime_ms
        for command in commands:
            if isinstance(command, Acknowledge) and command.at >= oldest:
                self._waiting.setdefault(command.alert_id, command)
                if len(self._waiting) > MOST_WAITING:
                    del self._waiting[next(iter(self._waiting))]

    def apply(self) -> list[Alert]:
        """The transitions of alerts that are open here and were not acknowledged yet."""
        if not self._waiting:
            return []
        oldest = self._clock.now_ms() - self._lifetime_ms
        caused: list[Alert] = []
        for said in list(self._waiting.values()):
            alert = self._episodes.acknowledge(said.alert_id, said.entity, said.author, said.at, said.note)
            if alert is not None:
                caused.append(alert)
            if alert is not None or said.at < oldest:
                del self._waiting[said.alert_id]
        return caused
