"""Watches the data's health while this is the active notifier: looks at the topics from time to time, and keeps the findings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from service.alerts.control.commands import Acknowledge
from service.alerts.data_health.alerts import DataHealth
from service.alerts.data_health.base import DataMonitor
from service.clock import Clock
from service.domain import Alert, DataSnapshot
from service.errors import BrokerUnavailable, ConfigError
from service.observability.logging import get_logger

log = get_logger("notify")


class DataWatch:
    """The data-health alerts of the metrics topic, and the monitor that sees what they are decided from."""

    def __init__(
        self,
        findings: DataHealth,
        monitor: DataMonitor,
        *,
        clock: Clock,
        on_look: Callable[[DataSnapshot], None] = lambda _: None,
    ) -> None:
        """``on_look``: is given each snapshot that is used."""
        self._on_look = on_look
        self._findings = findings
        self._monitor = monitor
        self._clock = clock

    async def run(self, ownership: Callable[[], int | None]) -> None:
        """Look every ``check_every_seconds``; what follows is recorded with the next batch.

        ``ownership``: a number for the ownership period, ``None`` while standing by. A look that began in another period is
        not used.
        """
        while True:
            await self._clock.sleep(self._findings.settings.check_every_seconds)
            period = ownership()
            if period is None:
                continue
            try:
                seen = await self._monitor.look()
            except (BrokerUnavailable, ConfigError) as error:
                log.warning("the data's health cannot be looked at now", why=str(error))
                continue
            if ownership() == period:
                self._on_look(seen)
                self._findings.take_in(seen, self._clock.now_ms())

    def restore(self, records: Mapping[bytes, bytes], acknowledged: Mapping[str, Acknowledge]) -> None:
        """Continue with what another notifier recorded. ``acknowledged``: commands by alert id; they may have come while no
        notifier was at work. Raises ``Stop`` when a record cannot be read."""
        self._findings.restore(records)
        for alert in self._findings.open_alerts():
            if (command := acknowledged.get(alert.alert_id)) is not None:
                self.acknowledge(command)

    def acknowledge(self, command: Acknowledge) -> None:
        """Apply an acknowledgement, which may be of an alert that is none of these."""
        self._findings.acknowledge(command.alert_id, command.author, command.note, command.at)

    def take_changes(self) -> tuple[dict[bytes, bytes | None], Sequence[Alert]]:
        """Records that changed (None deletes) and the transitions caused, since this was last called."""
        return self._findings.take_changes()

    def forget(self) -> None:
        """Another notifier watches from now on."""
        self._findings.forget()

    async def close(self) -> None:
        """Release the monitor's connections."""
        await self._monitor.close()
