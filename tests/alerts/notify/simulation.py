"""The real dispatcher and its queues under a clock that a test moves, with receivers that only keep what they are sent."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial

import msgspec

from service.alerts.messages.circumstances import NOTHING_KNOWN, ByAlert
from service.alerts.notify.dispatcher import NotificationService
from service.alerts.notify.group_records import groups_of, records_of
from service.alerts.notify.grouping import Group
from service.alerts.notify.journal import Journal
from service.clock import ManualClock
from service.domain import Alert, Severity, Status
from service.errors import DeliveryFailed
from service.settings import NotificationSettings, RouteSettings, WebhookReceiver
from tests.alerts.makers import alert

REPEAT_SECONDS = 600


def routes(*rules: tuple[dict[str, str], list[str], list[str]]) -> list[RouteSettings]:
    """From (match, receivers, group_by)."""
    timing = {"group_wait_seconds": 5, "group_interval_seconds": 60, "repeat_interval_seconds": REPEAT_SECONDS}
    return [RouteSettings(match=match, receivers=to, group_by=by, **timing) for match, to, by in rules]


class Inbox:
    """A receiver. ``statuses``: of each alert, in the order in which messages came; one that comes again under its key is counted
    in ``doubled`` and dropped. ``refusing``: entities it does not take."""

    def __init__(self, name: str, clock: ManualClock) -> None:
        self.name = name
        self.refusing: set[str] = set()
        self.retry_after: float | None = None
        self.statuses: dict[str, list[Status]] = defaultdict(list)
        self.messages: list[tuple[int, str, list[str]]] = []  # (seconds, key, entities)
        self.tried: list[tuple[int, list[str]]] = []
        self.doubled = 0
        self._clock = clock

    def take(self, alerts: Sequence[Alert], key: str) -> None:
        """One message. Raises ``DeliveryFailed`` where it is not taken."""
        now = self._clock.now_ms() // 1000
        entities = sorted(each.entity for each in alerts)
        self.tried.append((now, entities))
        if self.refusing & set(entities):
            raise DeliveryFailed(f"{self.name}: answered 503.", retry_after=self.retry_after)
        if any(key == before for _, before, _ in self.messages):
            self.doubled += 1
            return
        self.messages.append((now, key, entities))
        for each in alerts:
            self.statuses[each.entity].append(each.status)


class Line:
    """The notifier of one process. The process may die between the receiver's answer and the record of it."""

    def __init__(self, inbox: Inbox, world: Simulation) -> None:
        self.name = inbox.name
        self._inbox = inbox
        self._world = world
        self._process = world.process

    async def send(self, alerts: Sequence[Alert], *, key: str, circumstances: ByAlert = NOTHING_KNOWN) -> None:
        await self._world.alive(self._process)
        self._inbox.take(alerts, key)
        if self._world.kill_next:
            self._world.kill_next, self._world.process = False, self._world.process + 1
        await self._world.alive(self._process)

    async def close(self) -> None:
        pass


class Simulation:
    """Transitions, time, other routes and restarts in; what each receiver got out."""

    def __init__(self, rules: list[RouteSettings], receivers: Sequence[str] = ("a", "b"), deadline: float = 3600) -> None:
        self.clock = ManualClock(1_000_000)
        self.inboxes = {name: Inbox(name, self.clock) for name in receivers}
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.alerts: dict[str, Alert] = {}
        self.records: dict[bytes, bytes] = {}  # what the topic holds
        self.process = self.kills = 0
        self.kill_next = False
        self._recorded: dict[str, Group] = {}
        self._rules = rules
        self._deadline = deadline
        self._offset = 0

    async def start(self, rules: list[RouteSettings] | None = None) -> None:
        """A process that continues from the records, with other routes if given."""
        self._rules = rules or self._rules
        self._running = self.process
        names = [WebhookReceiver(name=name) for name in self.inboxes]
        settings = NotificationSettings(receivers=names, routes=self._rules, deadline_seconds=self._deadline)
        self.journal = Journal()
        self.service = NotificationService(
            settings,
            {name: Line(inbox, self) for name, inbox in self.inboxes.items()},
            journal=self.journal,
            clock=self.clock,
            on_outcome=lambda receiver, outcome: self.outcomes.update([(receiver, outcome)]),
            retry_wait=(1.0, 20.0),
        )
        self.journal.record_with(partial(self._record, self.process))
        self._recorded = groups_of(self.records)
        self.service.restore(self._recorded)
        await self.service.start()
        await self._settle()

    async def stop(self) -> None:
        """The process ends; what it recorded stays."""
        await self.service.close()
        await self._record(self.process)
        self.service.forget()

    async def restart(self, rules: list[RouteSettings] | None = None) -> None:
        await self.stop()
        await self.start(rules)

    async def change(self, entity: str, **facts: object) -> None:
        """The next transition of an entity's alert."""
        before = self.alerts.get(entity)
        if before is None:
            now = alert(entity, severity=Severity.WARNING, labels={"rack": "1"})
        else:
            now = msgspec.structs.replace(before, seq=before.seq + 1)
        now = msgspec.structs.replace(now, **facts)
        worst = max(now.severity, now.peak_severity, key=lambda severity: severity.rank)
        self.alerts[entity] = msgspec.structs.replace(now, peak_severity=worst)
        self.service.accept([(self.alerts[entity], self._offset)])
        self._offset += 1
        await self._settle()

    async def after(self, seconds: int, step: int = 30) -> None:
        """Let time pass."""
        for _ in range(0, seconds, step):
            self.clock.advance(step)
            self.service.apply([])
            await self._settle()

    async def resolve_all(self) -> None:
        for entity, held in list(self.alerts.items()):
            if held.status is not Status.RESOLVED:
                await self.change(entity, status=Status.RESOLVED, action="resolved", ended_at=self.clock.now_ms())

    async def alive(self, process: int) -> None:
        """A process that is dead goes no further."""
        if process != self.process:
            await asyncio.Event().wait()

    def adds_up(self, receiver: str) -> bool:
        """Whether due = sent + refused + gave_up + handed_over + unsettled."""
        of = {what: count for (name, what), count in self.outcomes.items() if name == receiver}
        ended = sum(of.get(each, 0) for each in ("sent", "refused", "gave_up", "handed_over"))
        return of.get("due", 0) == ended + self.service.unsettled(receiver)

    async def _settle(self) -> None:
        for _ in range(30):
            await asyncio.sleep(0)
        if self.process != self._running:  # it died; another one takes over
            self.kills += 1
            for name in self.inboxes:
                self.outcomes[(name, "handed_over")] += self.service.unsettled(name)
            await self.start()

    async def _record(self, process: int) -> bool:
        await self.alive(process)
        for key, group in self.journal.take_changes().groups.items():
            for name, value in records_of(key, self._recorded.get(key), group).items():
                if value is None:
                    self.records.pop(name, None)
                else:
                    self.records[name] = value
            if group is None:
                self._recorded.pop(key, None)
            else:
                self._recorded[key] = group
        return True
