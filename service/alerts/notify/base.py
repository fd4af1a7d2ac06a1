"""What the store and notify parts ask of their servers and receivers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from service.domain import Alert


class Notifier(Protocol):
    """Sends one message to one receiver. One file in ``alerts/``, one line in ``app.NOTIFIERS``."""

    name: str

    async def send(self, alerts: Sequence[Alert], *, key: str) -> None:
        """Deliver one message about ``alerts`` (at least one). ``key`` is the idempotency key, the same on every try.

        One attempt; the caller retries. Raises ``DeliveryFailed`` (try again) or ``DeliveryRefused`` (never will work).
        """
        ...

    async def close(self) -> None:
        """Release connections."""
        ...


class JournalStore(Protocol):
    """Where the notify part remembers, in one step with how far it has read."""

    async def take_over(self) -> tuple[int | None, Mapping[bytes, bytes]]:
        """Become the only one who writes; the offset to go on from (None: from the beginning) and what was remembered.

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
        """Write records (None deletes), the offset, how messages fared (by key), and transitions (key, value), all or nothing;
        False when it is no longer sure that we may."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...
