"""Hears of rebalances for ``kafka.py``, and ends its waits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Coroutine
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


async def unless_set(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Await ``work``; ``stop`` cancels it."""
    task, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        if not task.done():
            task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
