"""Hears of rebalances for ``kafka.py``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Any

from aiokafka import ConsumerRebalanceListener


class RebalanceListener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """Passes rebalances on until ``detach``: a consumer that is being stopped still reports some."""

    def __init__(self, on_assigned: Callable[[Collection[Any]], None], on_revoked: Callable[[], Awaitable[None]]) -> None:
        self._on_assigned = on_assigned
        self._on_revoked = on_revoked
        self._attached = True

    def detach(self) -> None:
        """Ignore every later rebalance."""
        self._attached = False

    async def on_partitions_revoked(self, revoked: Collection[Any]) -> None:
        if revoked and self._attached:
            await self._on_revoked()

    async def on_partitions_assigned(self, assigned: Collection[Any]) -> None:
        if self._attached:
            self._on_assigned(assigned)
