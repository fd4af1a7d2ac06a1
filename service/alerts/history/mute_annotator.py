"""Says of each transition on its way to the history whether it was muted, so that a silenced alert is stored and marked.

Judged at the transition's own time and not at the moment of writing, so that writing it again says the same.
"""

from __future__ import annotations

from service.alerts.control.commands import Command, Control
from service.alerts.control.mutes import Mutes
from service.alerts.control.topic import ControlReader
from service.domain import Alert
from service.settings import KafkaSettings, NotificationSettings


class MuteAnnotator:
    """The store part's own view of silences, maintenance, inhibition and false-alarm marks."""

    def __init__(self, kafka: KafkaSettings, notifications: NotificationSettings) -> None:
        self._muting = Mutes(notifications)
        self._control = Control()
        self._reader = ControlReader(kafka, self._obey)
        self.unwritten: list[Command] = []  # heard, and not yet in the history

    async def start(self) -> None:
        """Hear everything said so far. Raises ``BrokerUnavailable`` or ``ConfigError``."""
        await self._reader.start()

    async def close(self) -> None:
        """Stop listening."""
        await self._reader.close()

    def reason(self, alert: Alert) -> str | None:
        """Why this transition was not told when it happened, or ``None``. Call it for every transition, in order."""
        self._muting.observe(alert)
        return self._muting.reason(alert, alert.updated_at)

    def _obey(self, commands: list[Command]) -> None:
        for command in commands:
            self._control.apply(command)
        self.unwritten += commands
        self._control.mute(self._muting, now=0)  # silences that are over still held for what happened in them
