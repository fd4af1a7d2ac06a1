"""An alert store in memory, for the library form without Elasticsearch and for tests. It passes the same contract suite."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from service.alerts.control.commands import Command
from service.alerts.history.delivery_documents import version
from service.alerts.topics.deliveries import Delivery
from service.domain import Alert


class MemoryAlertStore:
    """Newest state per alert and every transition once; the oldest alerts are dropped beyond ``max_alerts``."""

    def __init__(self, max_alerts: int = 10_000) -> None:
        self._max_alerts = max_alerts
        self.commands: dict[str, Command] = {}
        self.deliveries: dict[str, Delivery] = {}
        self._transitions: OrderedDict[str, dict[int, Alert]] = OrderedDict()

    async def install_templates(self) -> None:
        """Nothing to prepare."""

    async def write(self, alerts: Sequence[Alert]) -> None:
        """Store the transitions; one seen before changes nothing."""
        for alert in alerts:
            self._transitions.setdefault(alert.alert_id, {}).setdefault(alert.seq, alert)
        while len(self._transitions) > self._max_alerts:
            self._transitions.popitem(last=False)

    async def write_commands(self, commands: Sequence[Command]) -> None:
        """Keep each command once."""
        self.commands.update({command.id: command for command in commands})

    async def write_deliveries(self, deliveries: Sequence[Delivery]) -> None:
        """Keep the newest state of each message."""
        for each in deliveries:
            if each.key not in self.deliveries or version(each) >= version(self.deliveries[each.key]):
                self.deliveries[each.key] = each

    async def alerts(self) -> list[Alert]:
        """The newest state of every alert, in order of first writing."""
        return [seqs[max(seqs)] for seqs in self._transitions.values()]

    async def events(self, alert_id: str) -> list[Alert]:
        """The transitions of one alert, in order."""
        return [alert for _, alert in sorted(self._transitions.get(alert_id, {}).items())]

    async def close(self) -> None:
        """Nothing to release."""
