"""What the store part asks of the alert store and of the dead-letter topic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

from service.alerts.control.commands import Command
from service.alerts.topics.deliveries import Delivery
from service.domain import Alert, Rejected, Severity


class Remark(msgspec.Struct, frozen=True):
    """What an operator said of an alert at ``at`` (ms). ``verdict``: of a mark (``none`` takes it back), else ``None``."""

    at: int
    author: str
    note: str = ""
    verdict: Literal["true", "false", "none"] | None = None


class PastAlert(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of an alert that fired. ``metrics``: their names, the leading one first; of an alert about the data, what
    was checked. ``severity``: the highest it had."""

    alert_id: str
    entity: str
    started_at: int
    ended_at: int | None
    reason: str
    severity: Severity
    metrics: tuple[str, ...]
    remarks: tuple[Remark, ...] = ()


class PastAlerts(Protocol):
    """Where earlier alerts are looked up."""

    async def past_alerts(self, entity: str, before: int) -> Sequence[PastAlert]:
        """The newest alerts of this entity that fired and began before ``before`` (ms), newest first; a bounded number. Raises
        ``StoreUnavailable`` or ``ConfigError``."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...


class AlertStore(Protocol):
    """Keeps the newest state of every alert and message, every transition, and every command. Writing the same again changes
    nothing, so a write may be repeated."""

    async def install_templates(self) -> None:
        """Prepare the server for the first write; idempotent. Raises ``StoreUnavailable`` or ``ConfigError``."""
        ...

    async def write(self, alerts: Sequence[Alert]) -> None:
        """Store the transitions, in order. Raises ``StoreUnavailable`` when the server cannot take them now."""
        ...

    async def write_commands(self, commands: Sequence[Command]) -> None:
        """Store operators' commands in the audit log. Raises ``StoreUnavailable``."""
        ...

    async def write_deliveries(self, deliveries: Sequence[Delivery]) -> None:
        """Store how messages to receivers fared. Raises ``StoreUnavailable``."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...


class DeadLetterSink(Protocol):
    """Where records and documents are kept that cannot be used."""

    def keep(self, rejected: Rejected) -> None:
        """Have it written by the next ``flush``."""
        ...

    async def flush(self) -> None:
        """Write what is kept, and wait for it. Raises ``BrokerUnavailable`` or ``ConfigError``."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...
