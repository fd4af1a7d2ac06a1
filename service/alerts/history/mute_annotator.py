"""Why each transition on its way to the history was muted, so that a silenced alert is stored with its reason.

Decided for the transition's own time and not for the moment of writing, so that writing it again gives the same document.
"""

from __future__ import annotations

from collections.abc import Sequence

from service.alerts.control.commands import Command, Control
from service.alerts.control.mutes import Mutes
from service.alerts.control.topic import ControlReader, delete_commands
from service.clock import Clock
from service.domain import Alert
from service.observability.health import Health
from service.observability.logging import get_logger
from service.observability.tasks import BackgroundTasks
from service.settings import KafkaSettings, NotificationSettings

log = get_logger("store")

KEEP_SECONDS = 30 * 86_400  # at least; and never less than the alerts that a command is about can be read or be open
CLEAN_EVERY_SECONDS = 3600.0


class MuteAnnotator:
    """The store part's own view of silences, maintenance, inhibition and false-alarm marks."""

    def __init__(
        self, kafka: KafkaSettings, notifications: NotificationSettings, *, health: Health, clock: Clock, keep_ms: int
    ) -> None:
        """``keep_ms``: how long a command stays on the control topic after it has no effect any more."""
        self._kafka = kafka
        self._clock = clock
        self._keep_ms = keep_ms
        self._mutes = Mutes(notifications)
        self._control = Control()
        self._reader = ControlReader(kafka, self._apply, BackgroundTasks("store", health, clock), on_dropped=self._drop)
        self._tasks = BackgroundTasks("store", health, clock)
        self.unwritten: list[Command] = []  # read, and not yet in the audit log

    async def start(self) -> None:
        """Apply every command so far. Raises ``BrokerUnavailable`` or ``ConfigError``."""
        await self._reader.start()
        self._tasks.start("retention of commands", self._delete_outdated)

    async def close(self) -> None:
        """Stop reading commands."""
        await self._tasks.close()
        await self._reader.close()

    def reason(self, alert: Alert) -> str | None:
        """Why this transition was muted when it happened, or ``None``. Call it for every transition, in order."""
        self._mutes.observe(alert)
        return self._mutes.reason(alert, alert.updated_at)

    async def _delete_outdated(self) -> None:
        """Delete from the control topic what no longer changes anything, from time to time, once the audit log has all commands."""
        while True:
            await self._clock.sleep(CLEAN_EVERY_SECONDS)
            keys = [] if self.unwritten else self._control.outdated(self._clock.now_ms() - self._keep_ms)
            if keys:
                await delete_commands(self._kafka, keys)
                log.info("commands without effect are deleted from the control topic; the audit log keeps them", commands=len(keys))

    def _drop(self, keys: Sequence[str]) -> None:
        self._control.drop(keys)
        self._control.mute(self._mutes, now=0)

    def _apply(self, commands: list[Command]) -> None:
        for command in commands:
            self._control.apply(command)
        self.unwritten += commands
        self._control.mute(self._mutes, now=0)  # silences that are over still held for what happened in them
