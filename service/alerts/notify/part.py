"""The notify part: transitions from the alerts topic to receivers.

Its state (groups, pending messages, what receivers were notified of) is recorded in one transaction with how far it has read.
The alerts topic has one partition, so one notifier is active; a standby takes over from its records. A message is doubled only
if the notifier dies between the receiver's answer and the record of it, and then under the same key. How each message fares is
written in the same transaction to ``tidewatch.notifications``, from where the store part keeps it.
"""

from __future__ import annotations

import asyncio
from functools import partial

from service.alerts.control.commands import Acknowledge, Command
from service.alerts.control.topic import ControlReader
from service.alerts.notify.base import JournalStore
from service.alerts.notify.data_watch import DataWatch
from service.alerts.notify.dispatcher import NotificationService
from service.alerts.notify.group_records import groups_of, records_of
from service.alerts.notify.grouping import Group
from service.alerts.notify.journal import Journal
from service.alerts.topics.deliveries import encode
from service.alerts.topics.reader import AlertTopicReader
from service.alerts.topics.transitions import encode_transition
from service.clock import Clock
from service.domain import Alert, Rejected
from service.errors import BrokerUnavailable
from service.observability.health import Health
from service.observability.logging import get_logger
from service.observability.tasks import BackgroundTasks
from service.runtime import close_all
from service.settings import KafkaSettings

log = get_logger("notify")


class NotifyPart:
    """Reads the alerts topic and notifies. It reads on while a receiver is away; only that receiver waits."""

    name = "notify"

    def __init__(
        self,
        kafka: KafkaSettings,
        service: NotificationService,
        journal: Journal,
        store: JournalStore,
        *,
        health: Health,
        clock: Clock,
        watch: DataWatch | None = None,
    ) -> None:
        """``journal``: the one that ``service`` writes to. ``store``: where its changes are kept."""
        self._topic = kafka.topics.alerts
        self._reader = AlertTopicReader(kafka, "notify", on_poison=self._poison)
        self._control = ControlReader(kafka, self._apply, BackgroundTasks(self.name, health, clock), on_dropped=service.drop)
        self._watch = watch
        self._tasks = BackgroundTasks(self.name, health, clock)
        self._service = service
        self._journal = journal
        self._store = store
        self._health = health
        self._turn = -1
        self._active = False
        self._read_to: int | None = None  # not recorded yet
        self._recorded: dict[str, Group] = {}
        self._recording = asyncio.Lock()
        journal.record_with(self._record)

    async def start(self) -> None:
        """Connect to Kafka and begin to deliver. Raises ``BrokerUnavailable`` or ``ConfigError``."""
        self._health.beat(self.name, ready=False, detail="connecting")
        await self._control.start()  # silences that exist must hold before anything is sent
        await self._reader.start()
        await self._service.start()
        if self._watch is not None:
            self._tasks.start("data health", partial(self._watch.run, self._ownership))

    async def run(self) -> None:
        """Work until asked to stop."""
        async for batch in self._reader.batches():
            if batch.turn != self._turn:
                await self._take_over(batch.turn)
            elif self._active:
                self._service.accept([(item.alert, item.offset) for item in batch.transitions])
                self._read_to = batch.next_offsets.get((self._topic, 0), self._read_to)
                await self._record()
            self._health.beat(self.name, ready=self._turn >= 0, detail=self._detail())

    def request_stop(self) -> None:
        """Read no more; start no new message."""
        self._reader.request_stop()
        self._service.request_stop()

    async def close(self) -> None:
        """Finish the tries in flight, record what they settled, leave the group."""
        watch = [] if self._watch is None else [self._watch.close]
        await close_all(
            self._tasks.close, *watch, self._service.close, self._record, self._store.close, self._reader.close, self._control.close
        )

    async def _take_over(self, turn: int) -> None:
        """After every rebalance: forget, and, if the partition is ours, continue from what the last notifier recorded."""
        async with self._recording:
            self._stand_by()
            if self._reader.assigned:
                try:
                    offset, records = await self._reader.alongside(self._store.take_over())
                except BrokerUnavailable as error:
                    log.warning("cannot take over the notifications yet", error=str(error))
                    return
                self._recorded = groups_of(records)
                self._service.restore(self._recorded)
                if self._watch is not None:
                    self._watch.restore(records, self._service.control.acknowledged)
                self._reader.seek(offset)
                self._active = True
                log.info("active notifier from now on", groups=len(self._recorded), offset=offset)
            self._turn = turn

    def _stand_by(self) -> None:
        self._active = False
        self._service.forget()
        if self._watch is not None:
            self._watch.forget()
        self._recorded, self._read_to = {}, None

    async def _record(self) -> bool:
        """Record what changed and how far was read; False when another notifier may be at work."""
        async with self._recording:
            if not self._active:
                return False
            changes, offset = self._journal.take_changes(), self._read_to
            records: dict[bytes, bytes | None] = {}
            for key, group in changes.groups.items():
                records |= records_of(key, self._recorded.get(key), group)
            caused: list[Alert] = []
            if self._watch is not None:
                findings, transitions = self._watch.take_changes()
                records |= findings
                caused += transitions
            deliveries = {each.key.encode(): encode(each) for each in changes.deliveries}
            if not records and not deliveries and offset is None:
                return True
            if not await self._store.write(records, offset, deliveries, [encode_transition(each) for each in caused]):
                self._stand_by()
                self._reader.rejoin()
                return False
            if self._read_to == offset:
                self._read_to = None
            for key, group in changes.groups.items():
                if group is None:
                    self._recorded.pop(key, None)
                else:
                    self._recorded[key] = group
            return True

    def _ownership(self) -> int | None:
        return self._turn if self._active else None

    def _apply(self, commands: list[Command]) -> None:
        self._service.apply(commands)
        if self._watch is None:
            return
        for command in commands:
            if isinstance(command, Acknowledge):
                self._watch.acknowledge(command)

    def _detail(self) -> str:
        if not self._active:
            return "standing by"
        unsent = self._service.unsent_from()
        return "nothing to send" if unsent is None else f"to send from offset {unsent}"

    def _poison(self, rejected: Rejected) -> None:
        log.warning("alerts topic holds a record that is no alert; skipped", offset=rejected.record.offset, why=rejected.message)
