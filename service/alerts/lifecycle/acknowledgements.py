"""Acknowledgements on their way to the episodes of this process. Pure.

Every scoring process reads every acknowledgement. Most belong to entities of another process, and one may come before its alert is
restored. So each is tried again between batches until it is applied, or too old for its alert to be still open.
"""

from __future__ import annotations

from collections.abc import Iterable

from service.alerts.control.commands import Acknowledge, Command
from service.alerts.lifecycle.episodes import Episodes
from service.clock import Clock
from service.domain import Alert

MOST_WAITING = 10_000


class Acknowledgements:
    """``receive`` commands as they come, ``apply`` between batches. ``lifetime_ms``: how long one waits for its alert."""

    def __init__(self, episodes: Episodes, *, clock: Clock, lifetime_ms: int) -> None:
        self._episodes = episodes
        self._clock = clock
        self._lifetime_ms = lifetime_ms
        self._waiting: dict[str, Acknowledge] = {}  # by alert; the first one counts

    def receive(self, commands: Iterable[Command]) -> None:
        """Keep the acknowledgements that are not too old; beyond ``MOST_WAITING`` the oldest are dropped."""
        oldest = self._clock.now_ms() - self._lifetime_ms
        for command in commands:
            if isinstance(command, Acknowledge) and command.at >= oldest:
                self._waiting.setdefault(command.alert_id, command)
                if len(self._waiting) > MOST_WAITING:
                    del self._waiting[next(iter(self._waiting))]

    def apply(self) -> list[Alert]:
        """The transitions of alerts that are open in this process and were not acknowledged yet."""
        if not self._waiting:
            return []
        oldest = self._clock.now_ms() - self._lifetime_ms
        caused: list[Alert] = []
        for command in list(self._waiting.values()):
            alert = self._episodes.acknowledge(command.alert_id, command.entity, command.author, command.at, command.note)
            if alert is not None:
                caused.append(alert)
            if alert is not None or command.at < oldest:
                del self._waiting[command.alert_id]
        return caused
