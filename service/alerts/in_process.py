"""Episodes, store and notifications joined by calls, for the library form. With Kafka three parts do the same, joined by topics."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Sequence

from service.alerts.history.base import AlertStore
from service.alerts.lifecycle.episodes import Episodes
from service.alerts.notify.dispatcher import NotificationService
from service.alerts.notify.grouping import Group
from service.alerts.notify.journal import Journal
from service.clock import Clock
from service.domain import Alert, Status, Verdict
from service.errors import ConfigError, StoreUnavailable
from service.observability.health import Health
from service.observability.logging import get_logger
from service.observability.tasks import BackgroundTasks

log = get_logger("alerts")

MAX_UNSTORED = 10_000  # transitions that wait for the store; beyond, the newest are lost and counted
REMEMBERED = 500  # alerts that are over, for messages about the next one like them
MOST_AT_ONCE = 500  # transitions in one write
FIRST_WAIT, LONGEST_WAIT = 0.2, 5.0  # seconds between two tries


class AlertManager:
    """Verdicts in; alerts stored and notified. Neither a store nor a receiver that is away delays the verdicts or each other.

    It may be started again after it was closed, also in another event loop: open alerts, what the receivers were sent and what
    could not be stored go on where they were. All of it is in memory and lost with the process.
    """

    def __init__(
        self,
        episodes: Episodes,
        *,
        clock: Clock,
        make_store: Callable[[], AlertStore] | None = None,
        make_notifications: Callable[[Journal], NotificationService] | None = None,
    ) -> None:
        """``make_store`` and ``make_notifications`` connect, at each start; ``None``: alerts are not stored, or not notified."""
        self._episodes = episodes
        self._clock = clock
        self._store = StoreQueue(make_store, clock=clock) if make_store is not None else None
        self._make_notifications = make_notifications
        self._notifications: NotificationService | None = None
        self._journal = Journal()
        self._groups: dict[str, Group] = {}
        self._over: deque[Alert] = deque(maxlen=REMEMBERED)
        self._started = 0
        self._changing = asyncio.Lock()

    async def start(self) -> None:
        """Connect, and begin to store and to notify. While it is started already, a further start only joins.

        Raises ``ConfigError`` when a receiver cannot work or the store refuses us, with every connection released. A store that
        is away is no error: it is waited for in the background.
        """
        if self._started == 0 and not self._changing.locked():
            self._changing = asyncio.Lock()  # of this event loop
        async with self._changing:
            if self._started == 0:
                if self._make_notifications is not None:
                    self._journal = Journal()
                    self._journal.record_with(self._record)
                    self._notifications = self._make_notifications(self._journal)
                try:
                    if self._store is not None:
                        await self._store.start()
                except BaseException:
                    await self._close_notifications()
                    raise
                if self._notifications is not None:
                    self._notifications.remember(self._over)
                    self._notifications.restore(dict(self._groups))
                    await self._notifications.start()
            self._started += 1

    def handle(self, verdicts: Sequence[Verdict]) -> list[Alert]:
        """The transitions that these verdicts cause, handed on to the store and the receivers. Never waits."""
        transitions = self._episodes.observe(verdicts)
        self._over.extend(alert for alert in transitions if alert.status is Status.RESOLVED)
        if self._notifications is not None:
            self._notifications.accept([(alert, -1) for alert in transitions])
        if self._store is not None:
            self._store.put(transitions)
        return transitions

    async def drain(self, seconds: float = 30.0) -> bool:
        """Store and send all that is pending, waiting no longer than ``seconds`` for either; True when nothing is pending."""
        notified = await self._notifications.drained(seconds) if self._notifications is not None else True
        stored = await self._store.drained(seconds) if self._store is not None else True
        return notified and stored

    async def close(self, seconds: float = 30.0) -> None:
        """Drain, then release every connection; the last of several starts does. What is still pending is logged and kept for the
        next start; so is a connection that does not close, and neither is raised."""
        if not await self.drain(seconds):
            log.warning("a stream ended with alerts that are not stored or not sent; the next one tries again")
        async with self._changing:
            self._started -= 1
            if self._started:
                return
            try:
                await self._close_notifications()
            finally:
                if self._store is not None:
                    await self._store.close()

    async def _close_notifications(self) -> None:
        if self._notifications is None:
            return
        notifications, self._notifications = self._notifications, None
        try:
            await notifications.close()
        except Exception as error:
            log.exception("a receiver's connection did not close", cause=str(error))
        await self._record()

    async def _record(self) -> bool:
        """Keep the groups as they are now. The history of deliveries is for the topic that this form has not."""
        for key, group in self._journal.take_changes().groups.items():
            if group is None:
                self._groups.pop(key, None)
            else:
                self._groups[key] = group
        return True


class StoreQueue:
    """Transitions on their way to the store, in order. Whatever is wrong with the store, they wait and it is tried again.

    At most ``MAX_UNSTORED`` wait; what comes then is lost, counted and logged.
    """

    def __init__(self, connect: Callable[[], AlertStore], *, clock: Clock) -> None:
        self._connect = connect
        self._clock = clock
        self._tasks = BackgroundTasks("alerts", Health(clock), clock)
        self._waiting: deque[Alert] = deque()
        self._store: AlertStore | None = None
        self._prepared = False
        self._wake = asyncio.Event()
        self._empty = asyncio.Event()
        self._trouble = ""  # why the last try failed
        self._lost = 0

    async def start(self) -> None:
        """Connect and prepare the server. Raises ``ConfigError`` when it refuses us; one that is away is tried again later."""
        self._wake, self._empty, self._prepared = asyncio.Event(), asyncio.Event(), False
        store = self._connect()
        try:
            await self._prepare(store)
        except StoreUnavailable as error:
            self._failed(error)
        except BaseException:
            await store.close()
            raise
        self._store = store
        self.put(())
        self._tasks.start("alert store", lambda: self._write_all(store))

    def put(self, transitions: Sequence[Alert]) -> None:
        """Take transitions; never waits."""
        room = max(0, MAX_UNSTORED - len(self._waiting))
        self._waiting.extend(transitions[:room])
        if lost := len(transitions[room:]):
            if not self._lost:
                log.error("too many alerts wait for the store; what comes now is lost", waiting=len(self._waiting))
            self._lost += lost
        if self._waiting:
            self._empty.clear()
            self._wake.set()
        else:
            self._empty.set()

    async def drained(self, seconds: float) -> bool:
        """Wait until all is stored, no longer than ``seconds``; True when it is."""
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Stop and release the connection. Transitions that are not stored are logged and kept for the next start."""
        await self._tasks.close()
        if self._waiting or self._lost:
            kept = {"not_stored": len(self._waiting), "lost": self._lost, "cause": self._trouble}
            log.error("alerts are not stored; those that wait are lost with this process", **kept)
        self._lost = 0
        store, self._store = self._store, None
        if store is None:
            return
        try:
            await store.close()
        except Exception as error:
            log.exception("the store's connection did not close", cause=str(error))

    async def _prepare(self, store: AlertStore) -> None:
        if not self._prepared:
            await store.install_templates()
            self._prepared = True

    async def _write_all(self, store: AlertStore) -> None:
        wait = FIRST_WAIT
        while True:
            try:
                await self._prepare(store)
                await self._write(store)
            except (StoreUnavailable, ConfigError) as error:  # it began well, so a setting that is refused now may be good again
                self._failed(error)
                await self._clock.sleep(wait)
                wait = min(2 * wait, LONGEST_WAIT)
                continue
            wait = FIRST_WAIT
            if self._trouble:
                self._trouble = ""
                log.info("the store takes alerts again")
            await self._wake.wait()

    async def _write(self, store: AlertStore) -> None:
        while batch := list(itertools.islice(self._waiting, MOST_AT_ONCE)):
            await store.write(batch)
            for _ in batch:
                self._waiting.popleft()
        self._wake.clear()
        self._empty.set()

    def _failed(self, error: StoreUnavailable | ConfigError) -> None:
        if not self._trouble:
            hint = error.hint if isinstance(error, ConfigError) else ""
            log.error("the store does not take alerts; they wait in memory and it is tried again", cause=str(error), hint=hint)
        self._trouble = str(error)
