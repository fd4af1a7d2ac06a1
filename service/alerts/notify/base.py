"""What the notify part asks of its receivers and of the store of its journal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from service.alerts.messages.circumstances import NOTHING_KNOWN, ByAlert
from service.domain import Alert


class Notifier(Protocol):
    """Sends one message to one receiver. A new kind is one file in ``alerts/receivers/`` and one line in ``app.NOTIFIERS``."""

    name: str

    async def send(self, alerts: Sequence[Alert], *, key: str, circumstances: ByAlert = NOTHING_KNOWN) -> None:
        """Deliver one message about ``alerts`` (at least one). ``key`` is the idempotency key, the same on every try.
        ``circumstances``: what is known around the alerts, also the same on every try.

        One attempt; the caller retries. Raises ``DeliveryFailed`` (try again) or ``DeliveryRefused`` (no try will ever succeed).
        """
        ...

    async def close(self) -> None:
        """Release connections."""
        ...


class JournalStore(Protocol):
    """Notifier state and consumer offset, written atomically."""

    async def take_over(self) -> tuple[int | None, Mapping[bytes, bytes]]:
        """Become the only writer; the offset to continue from (None: from the beginning) and the records.

        Raises ``BrokerUnavailable`` or ``ConfigError``.
        """
        ...

    async def write(
        self,
        records: Mapping[bytes, bytes | None],
        next_offset: int | None,
        deliveries: Mapping[bytes, bytes],
        alerts: Sequence[tuple[bytes, bytes]],
    ) -> bool:
        """Write records (None deletes), the offset, delivery records (by message key) and transitions (key, value), all or
        nothing. False when that did not go through: another notifier may be at work, so nothing may be sent until
        ``take_over``."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...
