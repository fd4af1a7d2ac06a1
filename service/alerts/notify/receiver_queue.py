"""One receiver: its groups of alerts, and the task that sends what is due."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import msgspec
import stamina

from service.alerts.notify.base import Notifier
from service.alerts.notify.grouping import (
    Group,
    Notification,
    SendDecision,
    absorb,
    after,
    decide,
    delivery_of,
    hush,
    news,
    notification,
    owed_offset,
    spent,
)
from service.alerts.topics.deliveries import DeliveryEnd
from service.domain import Alert
from service.errors import DeliveryFailed, DeliveryRefused
from service.observability.logging import get_logger

if TYPE_CHECKING:
    from service.alerts.notify.dispatcher import NotificationService

log = get_logger("notify")

LONGEST_RETRY_AFTER = 900.0
MAX_OWED = 50_000  # alerts a receiver may be behind by; beyond, the newest arrivals for it are dropped and counted


class ReceiverQueue:
    """One receiver: its groups, and the task that sends what is due."""

    def __init__(self, service: NotificationService, notifier: Notifier) -> None:
        self.service = service
        self.notifier = notifier
        self.groups: dict[str, Group] = {}
        self.task: asyncio.Task[None] | None = None
        self.wake = asyncio.Event()
        self.idle = asyncio.Event()
        self.idle.set()
        self.stopping = False
        self.forgotten = 0  # how often another process took over
        self._attempting = False
        self._hurry = False

    @property
    def name(self) -> str:
        return self.notifier.name

    def absorb(self, number: int, key: str, labels: dict[str, str], arrived: list[tuple[Alert, int]], now: int) -> None:
        room = MAX_OWED - sum(len(group.entries) for group in self.groups.values())
        if room < len(arrived):
            for _ in arrived[max(room, 0) :]:
                self.service.on_outcome(self.name, "dropped")
            log.error("a receiver is too far behind; alerts dropped for it", receiver=self.name, alerts=len(arrived) - max(room, 0))
            arrived = arrived[: max(room, 0)]
        policy = self.service.policy(self.name, number)
        group = self.groups.get(key)
        if group is None or (not group.entries and group.last_sent_at is None):
            group = Group(receiver=self.name, route=number, labels=labels, opened_at=now)
        group = absorb(group, arrived, now, policy)
        self._put(key, group)
        if any(news(entry.alert, entry.told, policy) for entry in group.entries.values()):
            self.idle.clear()
        self.wake.set()

    def restore(self, group: Group) -> None:
        """Go on with a group that another process remembered."""
        self.groups[group.key] = group
        if group.owed is not None:
            self.service.on_outcome(self.name, "due")

    def forget(self) -> None:
        """Another process tells people from now on."""
        for group in self.groups.values():
            if group.owed is not None:
                self.service.on_outcome(self.name, "handed_over")
        self.groups.clear()
        self.forgotten += 1
        self.idle.set()
        self.wake.set()

    def _put(self, key: str, group: Group | None) -> None:
        if group is None:
            del self.groups[key]
        else:
            self.groups[key] = group
        self.service.note(key)

    def owed_offset(self) -> int | None:
        owed = [
            offset
            for group in self.groups.values()
            if (offset := owed_offset(group, self.service.policy(self.name, group.route), self.service.muted)) is not None
        ]
        return min(owed, default=None)

    def hurry(self) -> None:
        """Treat every wait as over until nothing is owed."""
        self._hurry = True
        self.wake.set()

    async def run(self) -> None:
        """Send due groups, one at a time, until stopped. Nothing a single group does ends the task."""
        while not self.stopping:
            self.wake.clear()
            group, decision = self._next()
            if group is not None and (decision.send or (self._hurry and decision.reason != "still firing")):
                await self._tell(group, decision)
                continue
            if group is None or decision.reason == "still firing":
                self.idle.set()
                self._hurry = False
            await self._pause(decision.at)

    def _next(self) -> tuple[Group | None, SendDecision]:
        """The group due first (or the one to look at next), after forgetting those that are spent."""
        now = self.service.clock.now_ms()
        best: tuple[Group | None, SendDecision] = (None, SendDecision(False, "nothing new"))
        for key, group in list(self.groups.items()):
            policy = self.service.policy(self.name, group.route)
            if group.owed is not None:  # frozen before a restart: it goes first, as it was
                return group, SendDecision(True, group.owed.reason, now)
            if spent(group, now, policy):
                self._put(key, None)
                continue
            group = self._hush(key, group)
            decision = decide(group, now, policy, self.service.muted)
            if decision.at is not None and (best[1].at is None or decision.at < best[1].at):
                best = (group, decision)
        return best

    def _hush(self, key: str, group: Group) -> Group:
        if not self.service.muting.active:
            return group
        hushed = hush(group, self.service.muted)
        for name, entry in hushed.entries.items():
            if entry.hushed and not group.entries[name].hushed:
                self.service.on_outcome(self.name, "muted")
                log.info("not told", receiver=self.name, alert_id=name, why=self.service.muted(entry.alert))
        if hushed is not group:
            self._put(key, hushed)
        return hushed

    async def _pause(self, until: int | None) -> None:
        """Wait for news, or until a moment; look again at least twice a minute, because silences end by themselves."""
        wait = 30.0 if until is None else min(30.0, max(0.01, (until - self.service.clock.now_ms()) / 1000))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.wake.wait(), wait)

    async def _tell(self, group: Group, decision: SendDecision) -> None:
        """Record that the message is owed, send it, record that it was sent: whenever the process dies, whoever comes next
        sends it under the same key, or not at all because it is known to have arrived."""
        forgotten = self.forgotten
        message = group.owed
        if message is None:
            policy = self.service.policy(self.name, group.route)
            message = notification(group, decision.reason, policy, self.service.muted)
            message = msgspec.structs.replace(message, owed_at=self.service.clock.now_ms())
            self.service.on_outcome(self.name, "due")
            self._stands(group, message)
        if not await self.service.recorded() or forgotten != self.forgotten:
            await self._pause(None)
            return
        ending = await self._deliver(message, forgotten)
        if ending is None or forgotten != self.forgotten:
            return  # stopped, or another process settles it: it stays owed
        self._settle(group.key, message, ending)
        await self.service.recorded()

    def _stands(self, group: Group, message: Notification) -> None:
        self._put(group.key, msgspec.structs.replace(group, owed=message))
        self.service.tell_of(delivery_of(message, "owed", self.service.clock.now_ms()))

    def _settle(self, key: str, message: Notification, ending: DeliveryEnd) -> None:
        now = self.service.clock.now_ms()
        current = self.groups[key]  # it may have taken in news while the message was on its way
        message = current.owed or message
        if ending == "sent":
            message = msgspec.structs.replace(message, attempts=message.attempts + 1)
        self.service.on_outcome(self.name, ending)
        self.service.tell_of(delivery_of(message, ending, now))
        self._put(key, after(current, message, now, self.service.policy(self.name, current.route)))

    def _failed(self, message: Notification, error: Exception) -> None:
        """One more try went wrong."""
        group = self.groups.get(message.group_key)
        if group is not None and group.owed is not None and group.owed.key == message.key:
            owed = msgspec.structs.replace(group.owed, attempts=group.owed.attempts + 1, problem=str(error))
            self._stands(group, owed)

    async def _deliver(self, message: Notification, forgotten: int) -> DeliveryEnd | None:
        """How it ended; ``None`` when the service stops, or another process takes over, first."""
        first, longest = self.service.retry_wait
        deadline = self.service.settings.deadline_seconds
        try:
            async for attempt in stamina.retry_context(
                on=lambda error: self._again(error, message, forgotten),
                attempts=None,
                timeout=deadline,
                wait_initial=first,
                wait_max=longest,
                wait_jitter=first,
            ):
                with attempt:
                    await self._try(message)
        except DeliveryFailed as error:
            if self.stopping or forgotten != self.forgotten:
                return None
            log.error("gave up telling a receiver", receiver=self.name, alerts=len(message.entries), why=str(error))
            return "gave_up"
        except DeliveryRefused as error:
            if forgotten == self.forgotten:
                self._failed(message, error)
            log.error("a receiver refuses a message", receiver=self.name, alerts=len(message.entries), why=str(error))
            return "refused"
        log.info("told", receiver=self.name, alerts=len(message.entries), reason=message.reason, key=message.key)
        return "sent"

    async def _try(self, message: Notification) -> None:
        seconds = self.service.settings.attempt_timeout_seconds
        self._attempting = True
        try:
            async with asyncio.timeout(seconds):
                await self.notifier.send(message.alerts, key=message.key)
        except TimeoutError:
            raise DeliveryFailed(f"{self.name}: no answer within {seconds:g} s.") from None
        except (DeliveryFailed, DeliveryRefused):
            raise
        except Exception as error:
            # A notifier's own mistake must not end the others' paging; its type is enough, its text might hold a secret.
            raise DeliveryRefused(f"{self.name}: the message could not be made ({type(error).__name__}).") from error
        finally:
            self._attempting = False

    def _again(self, error: Exception, message: Notification, forgotten: int) -> bool | float:
        if not isinstance(error, DeliveryFailed) or forgotten != self.forgotten:
            return False
        self._failed(message, error)
        if self.stopping:
            return False
        self.service.on_outcome(self.name, "retried")
        return True if error.retry_after is None else min(error.retry_after, LONGEST_RETRY_AFTER)

    async def finish(self, seconds: float) -> None:
        if self.task is None:
            return
        self.wake.set()
        if self._attempting:
            await asyncio.wait([self.task], timeout=seconds + 1)
        else:
            await asyncio.sleep(0)
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
