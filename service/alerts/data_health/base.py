"""What the data-health checks need from Kafka."""

from __future__ import annotations

from typing import Protocol

from service.domain import DataSnapshot


class DataMonitor(Protocol):
    """Takes snapshots of the metrics topic."""

    async def look(self) -> DataSnapshot:
        """A snapshot of now. Raises ``BrokerUnavailable`` or ``ConfigError``."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...
