"""Why each transition on its way to the history was muted, so that a silenced alert is stored with its reason.

Decided for the transition's own time and not for the moment of writing, so that writing it again gives the same document.
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
        self._mutes = Mutes(notifications)
        self._control = Control()
        self._reader = ControlReader(kafka, self._apply)
        self.unwritten: list[Command] = []  # read, and not yet in the audit log

    async def start(self) -> None:
        """Apply every command so far. Raises ``BrokerUnavailable`` or ``ConfigError``."""
        await self._reader.start()

    async def close(self) -> None:
        """Stop reading commands."""
        await self._reader.close()

    def reason(self, alert: Alert) -> str | None:
        """Why this transition was muted when it happened, or ``None``. Call it for every transition, in order."""
        self._mutes.observe(alert)
        return self._mutes.reason(alert, alert.updated_at)

    def _apply(self, commands: list[Command]) -> None:
        for command in commands:
            self._control.apply(command)
        self.unwritten += commands
        self._control.mute(self._mutes, now=0)  # silences that are over still held for what happened in them
