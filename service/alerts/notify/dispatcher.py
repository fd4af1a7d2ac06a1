"""Sends what the stages decide. Each receiver has a task of its own, so a dead Slack never delays an e-mail."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence

from service.alerts.control.commands import Command, Control
from service.alerts.control.mutes import Mutes
from service.alerts.notify.base import Notifier
from service.alerts.notify.grouping import Group, Policy, group_key, group_labels, route
from service.alerts.notify.receiver_queue import ReceiverQueue
from service.alerts.topics.deliveries import Delivery
from service.clock import Clock
from service.domain import Alert, Severity
from service.settings import NotificationSettings

Record = Callable[[], Awaitable[bool]]
# (receiver, what). Of messages: due, and then one of sent, refused, gave_up, handed_over. Of tries: retried. Of alerts: muted,
# dropped.
OnOutcome = Callable[[str, str], None]


class NotificationService:
    """Routes, groups and delivers transitions.

    ``notifiers``: by receiver name. ``on_outcome(receiver, outcome)``: see ``OnOutcome``; of every receiver, due = sent + refused +
    gave_up + handed_over + ``unsettled``, at any moment.
    """

    def __init__(
        self,
        settings: NotificationSettings,
        notifiers: Mapping[str, Notifier],
        *,
        clock: Clock,
        on_outcome: OnOutcome,
        retry_wait: tuple[float, float] = (0.5, 60.0),
    ) -> None:
        self.settings = settings
        self._routes = settings.effective_routes()
        self._lowest = {receiver.name: Severity(receiver.min_severity) for receiver in settings.receivers}
        self.muting = Mutes(settings)
        self.control = Control()
        self.clock = clock
        self.on_outcome = on_outcome
        self.retry_wait = retry_wait
        self._record: Record | None = None
        self._changed: set[str] = set()
        self._deliveries: dict[str, Delivery] = {}
        self._workers = {name: ReceiverQueue(self, notifier) for name, notifier in notifiers.items()}

    async def start(self) -> None:
        """Begin to deliver."""
        for name, worker in self._workers.items():
            worker.task = asyncio.create_task(worker.run(), name=f"notify {name}")

    def accept(self, transitions: Sequence[tuple[Alert, int]]) -> None:
        """Take (transition, offset) pairs in; never waits. Offsets are for ``owed_from``; -1 when there is none."""
        now = self.clock.now_ms()
        for alert, _ in transitions:
            self.muting.observe(alert)
        gathered: dict[tuple[str, int, str], tuple[dict[str, str], list[tuple[Alert, int]]]] = {}
        for alert, offset in transitions:
            for number, receiver in route(alert, self._routes):
                labels = group_labels(alert, self._routes[number].group_by)
                key = group_key(receiver, number, labels)
                gathered.setdefault((receiver, number, key), (labels, []))[1].append((alert, offset))
        for (receiver, number, key), (labels, arrived) in gathered.items():
            self._workers[receiver].absorb(number, key, labels, arrived, now)

    def owed_from(self) -> int | None:
        """Offset of the oldest transition some receiver has still to be told about, or ``None`` when nothing is owed."""
        owed = [offset for worker in self._workers.values() if (offset := worker.owed_offset()) is not None]
        return min(owed, default=None)

    def remember_with(self, record: Record) -> None:
        """``record`` is awaited before each message is sent and after: it keeps ``take_changes`` where it survives this
        process, and says whether this process may tell people anything. Without it nothing outlives the process."""
        self._record = record

    def take_changes(self) -> dict[str, Group | None]:
        """The groups that changed since this was last asked, by key; None for one that is forgotten."""
        changed, self._changed = self._changed, set()
        now = {key: group for worker in self._workers.values() for key, group in worker.groups.items() if key in changed}
        return {key: now.get(key) for key in changed}

    def take_deliveries(self) -> list[Delivery]:
        """The messages that became due, were tried or were settled since this was last asked, each as it stands."""
        told, self._deliveries = self._deliveries, {}
        return list(told.values())

    def unsettled(self, receiver: str) -> int:
        """Messages that are due and neither sent nor given up."""
        return sum(group.owed is not None for group in self._workers[receiver].groups.values())

    def restore(self, groups: Sequence[Group]) -> None:
        """Take over what another process remembered; receivers that no longer exist are dropped."""
        for group in groups:
            if group.receiver in self._workers and group.route < len(self._routes):
                self._workers[group.receiver].restore(group)
                for entry in group.entries.values():
                    self.muting.observe(entry.alert)
        for worker in self._workers.values():
            worker.wake.set()

    def obey(self, commands: Sequence[Command]) -> None:
        """Take people's commands in: silences and false-alarm marks hold from now on."""
        for command in commands:
            self.control.apply(command)
        self.control.mute(self.muting, self.clock.now_ms())
        for worker in self._workers.values():
            worker.wake.set()

    def forget(self) -> None:
        """Drop everything remembered, because another process has taken over telling people."""
        self.muting.forget()
        self._changed.clear()
        self._deliveries.clear()
        for worker in self._workers.values():
            worker.forget()

    async def recorded(self) -> bool:
        """Keep what changed; False when this process may not tell anybody anything."""
        return await self._record() if self._record is not None else True

    def note(self, key: str) -> None:
        """A group changed."""
        if self._record is not None:
            self._changed.add(key)

    def tell_of(self, delivery: Delivery) -> None:
        """A message changed."""
        if self._record is not None:
            self._deliveries[delivery.key] = delivery

    async def drained(self, seconds: float) -> bool:
        """Send everything owed now, waiting no longer than ``seconds``; True when nothing is owed any more."""
        for worker in self._workers.values():
            worker.hurry()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for worker in self._workers.values():
                    await worker.idle.wait()
        return all(worker.idle.is_set() for worker in self._workers.values())

    def request_stop(self) -> None:
        """Start no new message and no new try."""
        for worker in self._workers.values():
            worker.stopping = True
            worker.wake.set()

    async def close(self) -> None:
        """Let a try in flight end, drop what waits for its next try (it stays owed), close the notifiers."""
        self.request_stop()
        for worker in self._workers.values():
            await worker.finish(self.settings.attempt_timeout_seconds)
        for worker in self._workers.values():
            await worker.notifier.close()

    def muted(self, alert: Alert) -> str | None:
        """Why ``alert`` is not told now, or ``None``."""
        return self.muting.reason(alert, self.clock.now_ms()) if self.muting.active else None

    def policy(self, receiver: str, number: int) -> Policy:
        """The timing of one receiver on one route."""
        rule = self._routes[number]
        return Policy(
            group_wait=round(rule.group_wait_seconds * 1000),
            group_interval=round(rule.group_interval_seconds * 1000),
            repeat_interval=round(rule.repeat_interval_seconds * 1000),
            min_severity=self._lowest.get(receiver, Severity.INFO),
            send_resolved=self.settings.send_resolved,
        )
