"""From transitions to receivers: routes each transition, and hands it to the queues of its receivers.

The way of a message: ``accept`` routes a transition to the groups of its receivers; each receiver's queue gathers them into
groups, decides when a group is due, records its message as pending, sends it, and records that it was sent.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import msgspec

from service.alerts.control.commands import Command, Control
from service.alerts.control.mutes import Mutes
from service.alerts.history.base import PastAlerts
from service.alerts.notify.base import Notifier
from service.alerts.notify.earlier_alerts import EarlierAlerts
from service.alerts.notify.facts import Facts
from service.alerts.notify.grouping import Group, delivery_of
from service.alerts.notify.journal import Journal
from service.alerts.notify.numbered_routes import with_route_ids
from service.alerts.notify.receiver_groups import Arrival
from service.alerts.notify.receiver_queue import ReceiverQueue
from service.alerts.notify.retries import Tries
from service.alerts.notify.routing import Destination, Routes
from service.clock import Clock
from service.domain import Alert, DataSnapshot
from service.observability.health import Health
from service.observability.tasks import BackgroundTasks
from service.runtime import close_all
from service.settings import NotificationSettings

OnOutcome = Callable[[str, str], None]  # (receiver, outcome); see receiver_queue.OnReceiverOutcome


class NotificationService:
    """Routes, groups and delivers transitions. Each receiver has a queue and a task of its own: a dead Slack never delays mail.

    ``notifiers``: by receiver name. ``journal``: collects what must outlive this process. ``on_outcome(receiver, outcome)``: for
    every receiver, due = sent + refused + gave_up + handed_over + ``unsettled``, at any moment.
    """

    def __init__(
        self,
        settings: NotificationSettings,
        notifiers: Mapping[str, Notifier],
        *,
        journal: Journal,
        clock: Clock,
        on_outcome: OnOutcome,
        health: Health | None = None,
        past_alerts: Callable[[], PastAlerts] | None = None,
        retry_wait: tuple[float, float] = (0.5, 60.0),
    ) -> None:
        """``past_alerts``: connects to the history, for when something like an alert happened last.

        ``health``: where a queue whose task fails shows. ``retry_wait``: the first and the longest wait between two tries
        (seconds)."""
        self.control = Control()
        self._clock = clock
        self._looks_up = past_alerts is not None
        self._journal = journal
        self._on_outcome = on_outcome
        self._attempt_timeout = settings.attempt_timeout_seconds
        self._tasks = BackgroundTasks("notify", health or Health(clock), clock)
        self._mutes = Mutes(settings)
        self._routes = Routes(settings)
        self._earlier = EarlierAlerts(past_alerts, self.control, clock=clock)
        self._facts = Facts(settings, self._earlier)
        self._look_ups = BackgroundTasks("notify", health or Health(clock), clock)
        first, longest = retry_wait
        tries = Tries(settings.attempt_timeout_seconds, settings.deadline_seconds, first, longest)
        self._queues = {
            name: ReceiverQueue(
                notifier,
                journal=journal,
                clock=clock,
                policy_of=partial(self._routes.policy_of, name),
                muted=self._muted,
                facts=self._facts,
                on_outcome=partial(on_outcome, name),
                tries=tries,
            )
            for name, notifier in notifiers.items()
        }

    async def start(self) -> None:
        """Begin to deliver."""
        for name, queue in self._queues.items():
            self._tasks.start(f"receiver {name}", queue.run)
        if self._looks_up:
            self._look_ups.start("earlier alerts", self._earlier.look_up)

    def accept(self, transitions: Sequence[tuple[Alert, int]]) -> None:
        """Route (transition, offset) pairs to the groups of their receivers; never waits. Offset -1: not from a topic."""
        now = self._clock.now_ms()
        for alert, _ in transitions:
            self._mutes.observe(alert)
            self._facts.observe(alert)
        routed = [(alert, offset, self._routes.destinations_of(alert)) for alert, offset in transitions]
        for name, queue in self._queues.items():  # also those that an alert is no longer routed to: they may hold it
            queue.absorb([Arrival(alert, offset, to.get(name)) for alert, offset, to in routed], now)

    def apply(self, commands: Sequence[Command]) -> None:
        """Apply operators' commands: silences and false-alarm marks hold from now on."""
        for command in commands:
            self.control.apply(command)
        self.control.mute(self._mutes, self._clock.now_ms())
        for queue in self._queues.values():
            queue.look_again()

    def drop(self, keys: Sequence[str]) -> None:
        """Forget commands that were deleted from the control topic, by their record keys."""
        self.control.drop(keys)
        self.control.mute(self._mutes, self._clock.now_ms())

    def unsettled(self, receiver: str) -> int:
        """Messages that are due and neither sent, refused nor given up."""
        return self._queues[receiver].unsettled

    def unsent_from(self) -> int | None:
        """Offset of the oldest transition that some receiver is still to be sent, or ``None`` when there is none."""
        unsent = [queue.unsent_offset() for queue in self._queues.values()]
        return min((offset for offset in unsent if offset is not None), default=None)

    def restore(self, recorded: Mapping[str, Group]) -> None:
        """Continue with groups that another process recorded, by the key they are recorded under. The routes may have changed;
        groups of receivers that no longer exist are dropped."""
        groups = with_route_ids(recorded, self._routes)
        for key, group in groups.items():
            if group.receiver not in self._queues:
                self._drop(key, group)
                continue
            for entry in group.entries.values():
                self._mutes.observe(entry.alert)
                self._facts.observe(entry.alert)
        for name, queue in self._queues.items():
            of_receiver = {key: group for key, group in groups.items() if group.receiver == name}
            queue.restore(of_receiver, partial(self._destination_of, name))

    def take_in(self, seen: DataSnapshot) -> None:
        """What the scoring processes report of their entities: how many have which labels."""
        self._facts.take_in(seen)

    def remember(self, over: Iterable[Alert]) -> None:
        """Alerts that were over before this began: messages say when something like it happened last."""
        for alert in over:
            self._facts.observe(alert)

    def forget(self) -> None:
        """Drop all groups, because another process notifies from now on."""
        self._mutes.forget()
        self._facts.forget()
        self._journal.clear()
        for queue in self._queues.values():
            queue.forget()

    async def drained(self, seconds: float) -> bool:
        """Send everything pending now, waiting no longer than ``seconds``; True when nothing is pending any more."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.gather(*(queue.drained() for queue in self._queues.values()))
        return all(queue.idle for queue in self._queues.values())

    def request_stop(self) -> None:
        """Start no new message and no new try."""
        for queue in self._queues.values():
            queue.request_stop()

    async def close(self) -> None:
        """Let the tries in flight end, then release the notifiers. What waits for its next try stays pending."""
        for queue in self._queues.values():
            queue.request_end()
        await self._look_ups.close()
        await self._tasks.close(drain=self._attempt_timeout + 1)
        await close_all(*(queue.close for queue in self._queues.values()))

    def _destination_of(self, receiver: str, alert: Alert) -> Destination | None:
        return self._routes.destinations_of(alert).get(receiver)

    def _drop(self, key: str, group: Group) -> None:
        """Give up what a receiver that no longer exists was still to be sent."""
        if group.pending is not None:
            for outcome in ("due", "gave_up"):
                self._on_outcome(group.receiver, outcome)
            message = msgspec.structs.replace(group.pending, problem=f"There is no receiver {group.receiver!r} any more.")
            self._journal.note_delivery(delivery_of(message, "gave_up", self._clock.now_ms()))
        self._journal.note_group(key, None)

    def _muted(self, alert: Alert) -> str | None:
        return self._mutes.reason(alert, self._clock.now_ms()) if self._mutes.active else None
