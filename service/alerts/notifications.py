"""Sends what the stages decide. Each receiver has a task of its own, so a dead Slack never delays an e-mail."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec
import stamina

from service.alerts.base import Notifier
from service.alerts.control import Command, Control
from service.alerts.muting import Muting
from service.alerts.stages import (
    Decision,
    Group,
    Notification,
    Policy,
    absorb,
    after,
    decide,
    group_key,
    group_labels,
    hush,
    news,
    notification,
    owed_offset,
    route,
    spent,
)
from service.clock import Clock
from service.domain import Alert, Severity
from service.errors import DeliveryFailed, DeliveryRefused
from service.observability.logging import get_logger
from service.settings import NotificationSettings

log = get_logger("notify")

Record = Callable[[], Awaitable[bool]]
Outcome = Callable[[str, str], None]  # (receiver, "sent" | "retried" | "refused" | "gave_up" | "muted" | "dropped")
LONGEST_RETRY_AFTER = 900.0
MAX_OWED = 50_000  # alerts a receiver may be behind by; beyond, the newest arrivals for it are dropped and counted


class NotificationService:
    """Routes, groups and delivers transitions.

    ``notifiers``: by receiver name. ``on_outcome(receiver, outcome)`` is called once per delivery and once per failed try.
    """

    def __init__(
        self,
        settings: NotificationSettings,
        notifiers: Mapping[str, Notifier],
        *,
        clock: Clock,
        on_outcome: Outcome,
        retry_wait: tuple[float, float] = (0.5, 60.0),
    ) -> None:
        self._settings = settings
        self._routes = settings.effective_routes()
        self._lowest = {receiver.name: Severity(receiver.min_severity) for receiver in settings.receivers}
        self.muting = Muting(settings)
        self.control = Control()
        self._clock = clock
        self._on_outcome = on_outcome
        self._retry_wait = retry_wait
        self._record: Record | None = None
        self._changed: set[str] = set()
        self._workers = {name: _Worker(self, notifier) for name, notifier in notifiers.items()}

    async def start(self) -> None:
        """Begin to deliver."""
        for name, worker in self._workers.items():
            worker.task = asyncio.create_task(worker.run(), name=f"notify {name}")

    def accept(self, transitions: Sequence[tuple[Alert, int]]) -> None:
        """Take (transition, offset) pairs in; never waits. Offsets are for ``owed_from``; -1 when there is none."""
        now = self._clock.now_ms()
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

    def restore(self, groups: Sequence[Group]) -> None:
        """Take over what another process remembered; receivers that no longer exist are dropped."""
        for group in groups:
            if group.receiver in self._workers and group.route < len(self._routes):
                self._workers[group.receiver].groups[group.key] = group
                for entry in group.entries.values():
                    self.muting.observe(entry.alert)
        for worker in self._workers.values():
            worker.wake.set()

    def obey(self, commands: Sequence[Command]) -> None:
        """Take people's commands in: silences and false-alarm marks hold from now on."""
        for command in commands:
            self.control.apply(command)
        self.control.mute(self.muting, self._clock.now_ms())
        for worker in self._workers.values():
            worker.wake.set()

    def forget(self) -> None:
        """Drop everything remembered, because another process has taken over telling people."""
        self.muting.forget()
        self._changed.clear()
        for worker in self._workers.values():
            worker.forget()

    async def recorded(self) -> bool:
        """Keep what changed; False when this process may not tell anybody anything."""
        return await self._record() if self._record is not None else True

    def note(self, key: str) -> None:
        """A group changed."""
        if self._record is not None:
            self._changed.add(key)

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
            await worker.finish(self._settings.attempt_timeout_seconds)
        for worker in self._workers.values():
            await worker.notifier.close()

    def muted(self, alert: Alert) -> str | None:
        """Why ``alert`` is not told now, or ``None``."""
        return self.muting.reason(alert, self._clock.now_ms())

    def policy(self, receiver: str, number: int) -> Policy:
        """The timing of one receiver on one route."""
        rule = self._routes[number]
        return Policy(
            group_wait=round(rule.group_wait_seconds * 1000),
            group_interval=round(rule.group_interval_seconds * 1000),
            repeat_interval=round(rule.repeat_interval_seconds * 1000),
            min_severity=self._lowest.get(receiver, Severity.INFO),
            send_resolved=self._settings.send_resolved,
        )


class _Worker:
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
                self.service._on_outcome(self.name, "dropped")
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

    def forget(self) -> None:
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

    def _next(self) -> tuple[Group | None, Decision]:
        """The group due first (or the one to look at next), after forgetting those that are spent."""
        now = self.service._clock.now_ms()
        best: tuple[Group | None, Decision] = (None, Decision(False, "nothing new"))
        for key, group in list(self.groups.items()):
            policy = self.service.policy(self.name, group.route)
            if group.owed is not None:  # frozen before a restart: it goes first, as it was
                return group, Decision(True, group.owed.reason, now)
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
                self.service._on_outcome(self.name, "muted")
                log.info("not told", receiver=self.name, alert_id=name, why=self.service.muted(entry.alert))
        if hushed is not group:
            self._put(key, hushed)
        return hushed

    async def _pause(self, until: int | None) -> None:
        """Wait for news, or until a moment; look again at least twice a minute, because silences end by themselves."""
        wait = 30.0 if until is None else min(30.0, max(0.01, (until - self.service._clock.now_ms()) / 1000))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.wake.wait(), wait)

    async def _tell(self, group: Group, decision: Decision) -> None:
        """Record that the message is owed, send it, record that it was sent: whenever the process dies, whoever comes next
        sends it under the same key, or not at all because it is known to have arrived."""
        forgotten = self.forgotten
        message = group.owed
        if message is None:
            policy = self.service.policy(self.name, group.route)
            message = notification(group, decision.reason, policy, self.service.muted)
            self._put(group.key, msgspec.structs.replace(group, owed=message))
        if not await self.service.recorded() or forgotten != self.forgotten:
            await self._pause(None)
            return
        outcome = await self._deliver(message, forgotten)
        if outcome is None:
            return  # stopped: it stays owed
        self.service._on_outcome(self.name, outcome)
        current = self.groups.get(group.key)  # it may have taken in news while the message was on its way
        if current is not None and forgotten == self.forgotten:
            self._put(group.key, after(current, message, self.service._clock.now_ms()))
            await self.service.recorded()

    async def _deliver(self, message: Notification, forgotten: int) -> str | None:
        """``sent``, ``refused`` or ``gave_up``; ``None`` when the service stops, or another process takes over, first."""
        first, longest = self.service._retry_wait
        deadline = self.service._settings.deadline_seconds
        try:
            async for attempt in stamina.retry_context(
                on=lambda error: self._again(error, forgotten),
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
            log.error("a receiver refuses a message", receiver=self.name, alerts=len(message.entries), why=str(error))
            return "refused"
        log.info("told", receiver=self.name, alerts=len(message.entries), reason=message.reason, key=message.key)
        return "sent"

    async def _try(self, message: Notification) -> None:
        seconds = self.service._settings.attempt_timeout_seconds
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

    def _again(self, error: Exception, forgotten: int) -> bool | float:
        if not isinstance(error, DeliveryFailed) or self.stopping or forgotten != self.forgotten:
            return False
        self.service._on_outcome(self.name, "retried")
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
