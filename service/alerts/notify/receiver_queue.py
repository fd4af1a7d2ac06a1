"""One receiver: its groups of alerts, and the task that sends what is due."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence

import msgspec
import stamina

from service.alerts.control.mutes import MuteReason
from service.alerts.notify.base import Notifier
from service.alerts.notify.grouping import Group, Notification, change_of, delivery_of, mark_muted, spent, unsent_offset
from service.alerts.notify.journal import Journal
from service.alerts.notify.receiver_groups import Arrival, ReceiverGroups
from service.alerts.notify.routing import Destination, Policy
from service.alerts.notify.timing import REMINDER, SendDecision, decide, notification
from service.alerts.topics.deliveries import DeliveryEnd
from service.clock import Clock
from service.domain import Alert
from service.errors import DeliveryFailed, DeliveryRefused
from service.observability.logging import get_logger

log = get_logger("notify")

LONGEST_RETRY_AFTER = 900.0
# Of messages: due, and then one of sent, refused, gave_up, handed_over. Of tries: retried. Of alerts: muted, dropped.
OnReceiverOutcome = Callable[[str], None]


class Tries(msgspec.Struct, frozen=True):
    """How long a message is tried, in seconds: each try, all of them together, and the first and longest wait between two."""

    attempt_timeout: float = 10.0
    deadline: float = 3600.0
    first_wait: float = 0.5
    longest_wait: float = 60.0


class ReceiverQueue:
    """The groups of one receiver, and the task that sends what is due."""

    def __init__(
        self,
        notifier: Notifier,
        *,
        journal: Journal,
        clock: Clock,
        policy_of: Callable[[str], Policy],
        muted: MuteReason,
        on_outcome: OnReceiverOutcome,
        tries: Tries,
    ) -> None:
        """``policy_of``: the policy of this receiver on a route. ``muted``: why an alert is muted now."""
        self._notifier = notifier
        self._journal = journal
        self._clock = clock
        self._policy_of = policy_of
        self._muted = muted
        self._on_outcome = on_outcome
        self._tries = tries
        self._groups = ReceiverGroups(policy_of, journal.note_group)
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping = False
        self._forgotten = 0  # how often another process took over
        self._attempting = False
        self._hurry = False
        self._task: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """The receiver's name."""
        return self._notifier.name

    @property
    def unsettled(self) -> int:
        """Messages that are due and neither sent, refused nor given up."""
        return sum(group.pending is not None for group in self._groups.all())

    def start(self) -> None:
        """Begin to send."""
        self._task = asyncio.create_task(self.run(), name=f"notify {self.name}")

    def absorb(self, arrived: Sequence[Arrival], now: int) -> None:
        """Take transitions in."""
        dropped = self._groups.absorb(arrived, now)
        for _ in range(dropped):
            self._on_outcome("dropped")
        if dropped:
            log.error("a receiver is too far behind; alerts dropped for it", receiver=self.name, alerts=dropped)
        self._look_at_changes()

    def restore(self, recorded: Mapping[str, Group], destination_of: Callable[[Alert], Destination | None]) -> None:
        """Continue with groups that another process recorded, by the key they are recorded under."""
        self._groups.restore(recorded, destination_of, self._clock.now_ms())
        for _ in range(self.unsettled):
            self._on_outcome("due")
        self._look_at_changes()

    def forget(self) -> None:
        """Another process notifies from now on."""
        for group in self._groups.all():
            if group.pending is not None:
                self._on_outcome("handed_over")
        self._groups.clear()
        self._forgotten += 1
        self._idle.set()
        self._wake.set()

    def look_again(self) -> None:
        """Decide anew: mutes may have changed."""
        self._wake.set()

    def unsent_offset(self) -> int | None:
        """Offset of the oldest transition this receiver is still to be sent, or ``None``."""
        unsent = [unsent_offset(group, self._policy_of(group.route), self._muted) for group in self._groups.all()]
        return min((offset for offset in unsent if offset is not None), default=None)

    def hurry(self) -> None:
        """Treat every group wait as over until nothing is pending."""
        self._hurry = True
        self._wake.set()

    async def drained(self) -> None:
        """Return when nothing is pending."""
        await self._idle.wait()

    @property
    def idle(self) -> bool:
        """True when nothing is pending."""
        return self._idle.is_set()

    def request_stop(self) -> None:
        """Start no new message and no new try."""
        self._stopping = True
        self._wake.set()

    async def close(self) -> None:
        """Let a try in flight end; what waits for its next try stays pending. Then release the notifier."""
        self.request_stop()
        if self._task is not None:
            if self._attempting:
                await asyncio.wait([self._task], timeout=self._tries.attempt_timeout + 1)
            else:
                await asyncio.sleep(0)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._notifier.close()

    async def run(self) -> None:
        """Send due groups, one at a time, until stopped."""
        while not self._stopping:
            self._wake.clear()
            group, decision = self._next()
            if group is not None and (decision.send or (self._hurry and decision.reason != REMINDER)):
                await self._send(group, decision)
                continue
            if group is None or decision.reason == REMINDER:
                self._idle.set()
                self._hurry = False
            await self._pause(decision.at)

    def _next(self) -> tuple[Group | None, SendDecision]:
        """The group due first (or the one to look at next), after dropping those that are spent."""
        now = self._clock.now_ms()
        best: tuple[Group | None, SendDecision] = (None, SendDecision(False, "nothing new"))
        for group in self._groups.all():
            policy = self._policy_of(group.route)
            if group.pending is not None:  # frozen before a restart: it goes first, as it was
                return group, SendDecision(True, group.pending.reason, now)
            if spent(group, now, policy):
                self._groups.drop(group)
                continue
            group = self._mark_muted(group)
            decision = decide(group, now, policy, self._muted)
            if decision.at is not None and (best[1].at is None or decision.at < best[1].at):
                best = (group, decision)
        return best

    def _mark_muted(self, group: Group) -> Group:
        marked = mark_muted(group, self._muted)
        for alert_id, entry in marked.entries.items():
            if entry.muted and not group.entries[alert_id].muted:
                self._on_outcome("muted")
                log.info("muted", receiver=self.name, alert_id=alert_id, why=self._muted(entry.alert))
        if marked is not group:
            self._groups.put(marked)
        return marked

    def _look_at_changes(self) -> None:
        """Decide anew; not idle while there is something to send."""
        for group in self._groups.all():
            policy = self._policy_of(group.route)
            if group.pending is not None or any(change_of(entry, policy) for entry in group.entries.values()):
                self._idle.clear()
                break
        self._wake.set()

    async def _pause(self, until: int | None) -> None:
        """Wait for a change, or until a moment; look again at least twice a minute, because silences end by themselves."""
        wait = 30.0 if until is None else min(30.0, max(0.01, (until - self._clock.now_ms()) / 1000))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), wait)

    async def _send(self, group: Group, decision: SendDecision) -> None:
        """Record that the message is pending, send it, record that it was sent. Whenever the process dies, the next one sends
        it under the same key, or not at all because it is known to have arrived."""
        forgotten = self._forgotten
        message = group.pending
        if message is None:
            policy = self._policy_of(group.route)
            message = notification(group, decision.reason, policy, self._muted, self._clock.now_ms())
            self._on_outcome("due")
            self._put_pending(group, message)
        if not await self._journal.recorded() or forgotten != self._forgotten:
            await self._pause(None)
            return
        end = await self._deliver(message, forgotten)
        if end is None or forgotten != self._forgotten:
            return  # stopped, or another process settles it: it stays pending
        self._settle(group.key, message, end)
        await self._journal.recorded()

    def _settle(self, key: str, message: Notification, end: DeliveryEnd) -> None:
        now = self._clock.now_ms()
        current = self._groups[key]  # it may have absorbed changes while the message was on its way
        message = current.pending or message
        if end == "sent":
            message = msgspec.structs.replace(message, attempts=message.attempts + 1)
        self._on_outcome(end)
        self._journal.note_delivery(delivery_of(message, end, now))
        self._groups.settle(key, message, now)

    def _failed(self, message: Notification, error: Exception) -> None:
        """One more try failed."""
        group = self._groups[message.group_key]
        attempts = 1 + (group.pending or message).attempts
        self._put_pending(group, msgspec.structs.replace(message, attempts=attempts, problem=str(error)))

    def _put_pending(self, group: Group, message: Notification) -> None:
        self._groups.put(msgspec.structs.replace(group, pending=message))
        self._journal.note_delivery(delivery_of(message, "owed", self._clock.now_ms()))

    async def _deliver(self, message: Notification, forgotten: int) -> DeliveryEnd | None:
        """How it ended; ``None`` when the service stops, or another process takes over, first."""
        try:
            async for attempt in stamina.retry_context(
                on=lambda error: self._again(error, message, forgotten),
                attempts=None,
                timeout=self._tries.deadline,
                wait_initial=self._tries.first_wait,
                wait_max=self._tries.longest_wait,
                wait_jitter=self._tries.first_wait,
            ):
                with attempt:
                    await self._try(message)
        except DeliveryFailed as error:
            if self._stopping or forgotten != self._forgotten:
                return None
            log.error("gave up on a message", receiver=self.name, alerts=len(message.entries), why=str(error))
            return "gave_up"
        except DeliveryRefused as error:
            if forgotten == self._forgotten:
                self._failed(message, error)
            log.error("a receiver refuses a message", receiver=self.name, alerts=len(message.entries), why=str(error))
            return "refused"
        log.info("sent", receiver=self.name, alerts=len(message.entries), reason=message.reason, key=message.key)
        return "sent"

    async def _try(self, message: Notification) -> None:
        seconds = self._tries.attempt_timeout
        self._attempting = True
        try:
            async with asyncio.timeout(seconds):
                await self._notifier.send(message.alerts, key=message.key)
        except TimeoutError:
            raise DeliveryFailed(f"{self.name}: no answer within {seconds:g} s.") from None
        except (DeliveryFailed, DeliveryRefused):
            raise
        except Exception as error:
            # A notifier's own mistake must not end the others' messages; its type is enough, its text might hold a secret.
            raise DeliveryRefused(f"{self.name}: the message could not be made ({type(error).__name__}).") from error
        finally:
            self._attempting = False

    def _again(self, error: Exception, message: Notification, forgotten: int) -> bool | float:
        if not isinstance(error, DeliveryFailed) or forgotten != self._forgotten:
            return False
        self._failed(message, error)
        if self._stopping:
            return False
        self._on_outcome("retried")
        return True if error.retry_after is None else min(error.retry_after, LONGEST_RETRY_AFTER)
