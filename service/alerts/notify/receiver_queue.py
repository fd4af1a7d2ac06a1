"""One receiver: decides which of its groups is due, and sends one message after the other.

A message that the receiver does not take waits for its next try beside the others; only its own group waits for it. One try is in
flight at a time: a notifier that dies then doubles one message at most, and messages come in order (decision 0016).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec

from service.alerts.control.mutes import MuteReason
from service.alerts.notify.base import Notifier
from service.alerts.notify.facts import Facts
from service.alerts.notify.grouping import Group, Notification, change_of, delivery_of, mark_muted, spent, unsent_offset
from service.alerts.notify.journal import Journal
from service.alerts.notify.receiver_groups import Arrival, ReceiverGroups
from service.alerts.notify.retries import NEVER_TRIED, Retries, Tries
from service.alerts.notify.routing import Destination, Policy
from service.alerts.notify.timing import REMINDER, decide, notification
from service.alerts.topics.deliveries import DeliveryEnd
from service.clock import Clock
from service.domain import Alert
from service.errors import DeliveryFailed, DeliveryRefused
from service.observability.logging import get_logger

log = get_logger("notify")

LOOK_EVERY_SECONDS = 30.0  # silences begin and end by themselves
# Of messages: due, and then one of sent, refused, gave_up, handed_over. Of tries: retried. Of alerts: muted, dropped.
OnReceiverOutcome = Callable[[str], None]


class Candidate(msgspec.Struct, frozen=True):
    """A group with something to send. ``rank``: which goes first of those that are due. ``wait``: seconds until it is due;
    negative: how long it has been due. It leaves out a ``Retry-After`` of the receiver, at whose end all would seem due since
    the same moment."""

    group: Group
    reason: str
    rank: int
    wait: float


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
        facts: Facts,
        on_outcome: OnReceiverOutcome,
        tries: Tries,
    ) -> None:
        """``policy_of``: the policy of this receiver on a route. ``muted``: why an alert is muted now.
        ``facts``: what is known around alerts."""
        self._notifier = notifier
        self._journal = journal
        self._clock = clock
        self._policy_of = policy_of
        self._muted = muted
        self._facts = facts
        self._on_outcome = on_outcome
        self._attempt_timeout = tries.attempt_timeout
        self._groups = ReceiverGroups(policy_of, journal.note_group)
        self._retries = Retries(tries)
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._hurry = False
        self._stopping = self._ending = False
        self._period = 0  # of ownership: another begins when another process takes over

    @property
    def name(self) -> str:
        """The receiver's name."""
        return self._notifier.name

    @property
    def unsettled(self) -> int:
        """Messages that are due and neither sent, refused nor given up."""
        return sum(group.pending is not None for group in self._groups.all())

    @property
    def idle(self) -> bool:
        """True when there is nothing to send but reminders that are not due."""
        return self._idle.is_set()

    # --- from the dispatcher -------------------------------------------------------------------------------------------

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
        for _ in range(self.unsettled):
            self._on_outcome("handed_over")
        self._groups.clear()
        self._retries.clear()
        self._period += 1
        self._idle.set()
        self._wake.set()

    def look_again(self) -> None:
        """Decide anew: mutes may have changed."""
        self._wake.set()

    def unsent_offset(self) -> int | None:
        """Offset of the oldest transition this receiver is still to be sent, or ``None``."""
        unsent = [unsent_offset(group, self._policy_of(group.route), self._muted) for group in self._groups.all()]
        return min((offset for offset in unsent if offset is not None), default=None)

    async def drained(self) -> None:
        """Treat every group's wait as over; return when ``idle``."""
        self._hurry = True
        self._wake.set()
        await self._idle.wait()

    def request_stop(self) -> None:
        """Start no new message and no new try."""
        self._stopping = True
        self._wake.set()

    def request_end(self) -> None:
        """Let ``run`` return once the try in flight is settled. What waits for its next try stays pending."""
        self._stopping = self._ending = True
        self._wake.set()

    async def close(self) -> None:
        """Release the notifier."""
        await self._notifier.close()

    # --- the way of a message: due, recorded, sent, recorded -----------------------------------------------------------

    async def run(self) -> None:
        """Send what is due, one message after the other, until ``request_end``."""
        while not self._ending:
            self._wake.clear()
            first = self._first()
            if first is None or self._stopping:
                await self._pause(LOOK_EVERY_SECONDS)
            elif (wait := max(first.wait, self._retries.silence(self._clock.monotonic()))) > 0:
                await self._pause(wait)
            else:
                await self._send(first)

    def _first(self) -> Candidate | None:
        """What to send next, or to wait for: of what is due, the messages of the process before, then those that were not tried
        yet, then those that were; among these, what has been due longest."""
        candidates = [candidate for group in self._groups.all() if (candidate := self._candidate(group)) is not None]
        if all(each.group.pending is None and each.reason == REMINDER for each in candidates):
            self._idle.set()
            self._hurry = False
        return min(candidates, key=lambda each: (each.wait > 0, each.rank if each.wait <= 0 else 0, each.wait), default=None)

    def _candidate(self, group: Group) -> Candidate | None:
        now = self._clock.now_ms()
        if group.pending is not None:
            wait = self._retries.wait(group.key, self._clock.monotonic())
            return Candidate(group, group.pending.reason, self._retries.rank(group.key), wait)
        policy = self._policy_of(group.route)
        if spent(group, now, policy):
            self._groups.drop(group)
            return None
        group = self._mark_muted(group)
        decision = decide(group, now, policy, self._muted)
        if decision.at is None:
            return None
        hurried = self._hurry and decision.reason != REMINDER
        return Candidate(group, decision.reason, NEVER_TRIED, 0.0 if hurried else (decision.at - now) / 1000)

    async def _send(self, due: Candidate) -> None:
        """Record that the message is pending, send it, record that it was sent. Whenever the process dies, the next one sends
        it under the same key, or not at all because it is known to have arrived."""
        period = self._period
        message = due.group.pending or self._begin(due)
        if not await self._journal.recorded() or period != self._period:
            await self._pause(LOOK_EVERY_SECONDS)
            return
        problem = await self._try(message)
        if period != self._period:
            return  # the process that took over settles it
        if self._end(message, problem):
            await self._journal.recorded()

    def _begin(self, due: Candidate) -> Notification:
        """Freeze the message of a group that is due."""
        policy = self._policy_of(due.group.route)
        message = notification(due.group, due.reason, policy, self._muted, self._clock.now_ms())
        message = msgspec.structs.replace(message, found=self._facts.found(message, policy))
        self._on_outcome("due")
        self._put_pending(message)
        return message

    async def _try(self, message: Notification) -> DeliveryFailed | DeliveryRefused | None:
        """One try; why it failed."""
        policy = self._policy_of(self._groups[message.group_key].route)
        try:
            known = self._facts.circumstances(message, policy)
            async with asyncio.timeout(self._attempt_timeout):
                await self._notifier.send(message.alerts, key=message.key, circumstances=known)
        except TimeoutError:
            return DeliveryFailed(f"{self.name}: no answer within {self._attempt_timeout:g} s.")
        except (DeliveryFailed, DeliveryRefused) as error:
            return error
        except Exception as error:  # noqa: BLE001 - a notifier's own mistake must not end the others' messages
            # its type is enough, its text might hold a secret
            return DeliveryRefused(f"{self.name}: the message could not be made ({type(error).__name__}).")
        return None

    def _end(self, message: Notification, problem: DeliveryFailed | DeliveryRefused | None) -> bool:
        """Settle the message (then True), or let it wait for its next try."""
        tried = msgspec.structs.replace(message, attempts=message.attempts + 1)
        if problem is None:
            log.info("sent", receiver=self.name, alerts=len(message.entries), reason=message.reason, key=message.key)
            return self._settle(tried, "sent")
        tried = msgspec.structs.replace(tried, problem=str(problem))
        facts = {"receiver": self.name, "alerts": len(message.entries), "why": str(problem)}
        if isinstance(problem, DeliveryRefused):
            log.error("a receiver refuses a message", **facts)
            return self._settle(tried, "refused")
        self._on_outcome("retried")
        wait = self._retries.failed(message.group_key, self._clock.monotonic(), problem.retry_after)
        if wait is None:
            log.error("gave up on a message", **facts)
            return self._settle(tried, "gave_up")
        log.warning("a message was not taken; it is tried again", tries=tried.attempts, seconds=round(wait, 1), **facts)
        self._put_pending(tried)
        return False

    def _settle(self, message: Notification, end: DeliveryEnd) -> Literal[True]:
        now = self._clock.now_ms()
        self._retries.settled(message.group_key)
        self._on_outcome(end)
        self._journal.note_delivery(delivery_of(message, end, now))
        self._groups.settle(message.group_key, message, now)
        return True

    def _put_pending(self, message: Notification) -> None:
        self._groups.put(msgspec.structs.replace(self._groups[message.group_key], pending=message))
        self._journal.note_delivery(delivery_of(message, "owed", self._clock.now_ms()))

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
        if self._idle.is_set() and any(self._has_something_to_send(group) for group in self._groups.all()):
            self._idle.clear()
        self._wake.set()

    def _has_something_to_send(self, group: Group) -> bool:
        policy = self._policy_of(group.route)
        return group.pending is not None or any(change_of(entry, policy) for entry in group.entries.values())

    async def _pause(self, seconds: float) -> None:
        """Wait for a change, but no longer than this."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), min(LOOK_EVERY_SECONDS, max(0.01, seconds)))
