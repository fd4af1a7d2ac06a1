"""What stands right of the verdict in one object: episodes, store, notifications. The library form and the demo use it.

With Kafka the same three objects stand in three parts joined by topics; here they are joined by calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import stamina

from service.alerts.history.base import AlertStore
from service.alerts.lifecycle.episodes import Episodes
from service.alerts.notify.dispatcher import NotificationService
from service.domain import Alert, Verdict
from service.errors import StoreUnavailable
from service.observability.logging import get_logger

log = get_logger("alerts")

MAX_UNSTORED = 10_000


class AlertManager:
    """Verdicts in; alerts stored and told. Neither a dead store nor a dead receiver delays the verdicts or each other.

    ``store`` or ``notifications`` may be ``None``. Without Kafka there is no log to read again: transitions that cannot be
    stored wait in memory, at most ``MAX_UNSTORED`` of them, and are lost with the process.
    """

    def __init__(self, episodes: Episodes, store: AlertStore | None, notifications: NotificationService | None) -> None:
        self.episodes = episodes
        self._store = store
        self._notifications = notifications
        self._unstored: asyncio.Queue[Alert] = asyncio.Queue(MAX_UNSTORED)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to store and to deliver."""
        if self._notifications is not None:
            await self._notifications.start()
        if self._store is not None:
            self._task = asyncio.create_task(self._store_all(self._store), name="alert store")

    async def handle(self, verdicts: Sequence[Verdict]) -> list[Alert]:
        """The transitions these verdicts cause, handed on for storing and telling."""
        transitions = self.episodes.observe(verdicts)
        self.submit(transitions)
        return transitions

    def submit(self, transitions: Sequence[Alert]) -> None:
        """Hand transitions on; never waits."""
        if self._notifications is not None:
            self._notifications.accept([(alert, -1) for alert in transitions])
        if self._store is None:
            return
        for alert in transitions:
            try:
                self._unstored.put_nowait(alert)
            except asyncio.QueueFull:
                log.error("the store is away too long; a transition is not stored", alert_id=alert.alert_id, seq=alert.seq)

    async def drain(self, seconds: float = 30.0) -> bool:
        """Store and tell everything owed now, waiting no longer than ``seconds``; True when all of it is done."""
        told = await self._notifications.drained(seconds) if self._notifications is not None else True
        try:
            async with asyncio.timeout(seconds):
                await self._unstored.join()
        except TimeoutError:
            return False
        return told

    async def close(self, seconds: float = 30.0) -> None:
        """Drain, then release every connection."""
        if not await self.drain(seconds):
            log.warning("closed with alerts not yet stored or told", unstored=self._unstored.qsize())
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._notifications is not None:
            await self._notifications.close()
        if self._store is not None:
            await self._store.close()

    async def _store_all(self, store: AlertStore) -> None:
        async for attempt in stamina.retry_context(on=StoreUnavailable, attempts=None, timeout=None):
            with attempt:
                await store.install_templates()
        while True:
            waiting = [await self._unstored.get()]
            while not self._unstored.empty() and len(waiting) < 500:
                waiting.append(self._unstored.get_nowait())
            async for attempt in stamina.retry_context(on=StoreUnavailable, attempts=None, timeout=None):
                with attempt:
                    await store.write(waiting)
            for _ in waiting:
                self._unstored.task_done()
