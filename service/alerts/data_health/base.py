"""What the data-health alerts ask of whoever looks at the metrics topic."""

from __future__ import annotations

from typing import Protocol

from service.domain import DataSnapshot


class DataMonitor(Protocol):
    """Who looks at the metrics topic for ``data_health``."""

    async def look(self) -> DataSnapshot:
        """What there is to see now. Raises ``BrokerUnavailable`` or ``ConfigError``."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...
