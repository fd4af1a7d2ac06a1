"""The notify part: transitions from the alerts topic to people.

What it remembers (groups, the message owed, what was told) is kept in one transaction with how far it has read. Only one
notifier is active, because the alerts topic has one partition; a standby takes over where the other one's memory ends. A message
is doubled only if the notifier dies between the receiver's answer and the record of it, and then under the same key. How each
message fares goes, in the same transaction, to ``tidewatch.notifications``, from where the store part keeps it.
"""

from __future__ import annotations

import asyncio

from service.alerts.control.commands import Acknowledge, Command
from service.alerts.control.topic import ControlReader
from service.alerts.data_health.alerts import DataHealth
from service.alerts.data_health.base import DataMonitor
from service.alerts.notify.base import JournalStore
from service.alerts.notify.dispatcher import NotificationService
from service.alerts.notify.group_records import groups_of, records_of
from service.alerts.notify.grouping import Group
from service.alerts.topics.deliveries import encode
from service.alerts.topics.reader import AlertTopicReader
from service.alerts.topics.transitions import encode_transition
from service.domain import Alert, Rejected
from service.errors import BrokerUnavailable, ConfigError
from service.observability.health import Health
from service.observability.logging import get_logger
from service.observability.metrics import Metrics
from service.settings import KafkaSettings

log = get_logger("notify")


class NotifyPart:
    """Reader and notification service. It reads on while a receiver is away; only that receiver waits."""

    name = "notify"

    def __init__(
        self,
        kafka: KafkaSettings,
        service: NotificationService,
        ledger: JournalStore,
        *,
        metrics: Metrics,
        health: Health,
        watch: tuple[DataHealth, DataMonitor] | None = None,
    ) -> None:
        """``watch``: the data's health, and who looks at it."""
        self._topic = kafka.topics.alerts
        self._reader = AlertTopicReader(kafka, "notify", on_poison=self._poison)
        self._control = ControlReader(kafka, self._obey)
        self._watch = watch
        self._watching: asyncio.Task[None] | None = None
        self._service = service
        self._ledger = ledger
        self._metrics = metrics
        self._health = health
        self._turn = -1
        self._active = False
        self._read_to: int | None = None  # not recorded yet
        self._recorded: dict[str, Group] = {}
        self._recording = asyncio.Lock()
        service.remember_with(self._record)

    async def start(self) -> None:
        """Connect to Kafka and begin to deliver. Raises ``BrokerUnavailable`` or ``ConfigError``."""
        self._health.beat(self.name, ready=False, detail="connecting")
        await self._control.start()  # a silence said before must hold before anything is sent
        await self._reader.start()
        await self._service.start()
        if self._watch is not None:
            self._watching = asyncio.create_task(self._look_after(*self._watch), name="data health")

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
        if self._watch is not None and self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
            await self._watch[1].close()
        await self._service.close()
        await self._record()
        await self._ledger.close()
        await self._reader.close()
        await self._control.close()

    async def _take_over(self, turn: int) -> None:
        """After every rebalance: forget, and, where the partition is ours, go on from what the last notifier recorded."""
        async with self._recording:
            self._stand_by()
            if self._reader.assigned:
                try:
                    offset, records = await self._reader.alongside(self._ledger.take_over())
                except BrokerUnavailable as error:
                    log.warning("cannot take over telling people yet", error=str(error))
                    return
                groups = groups_of(records)
                self._recorded = {group.key: group for group in groups}
                self._service.restore(groups)
                if self._watch is not None:
                    self._watch[0].restore(records)
                    for alert in self._watch[0].open_alerts():  # taken while no notifier was at work
                        if (said := self._service.control.acknowledged.get(alert.alert_id)) is not None:
                            self._watch[0].acknowledge(alert.alert_id, said.author, said.note, said.at)
                self._reader.seek(offset)
                self._active = True
                log.info("telling people from now on", groups=len(groups), offset=offset)
            self._turn = turn

    def _stand_by(self) -> None:
        self._active = False
        self._service.forget()
        if self._watch is not None:
            self._watch[0].forget()
        self._recorded, self._read_to = {}, None

    async def _record(self) -> bool:
        """Record what changed and how far was read; False when another notifier may be at work."""
        async with self._recording:
            if not self._active:
                return False
            changes, offset = self._service.take_changes(), self._read_to
            records: dict[bytes, bytes | None] = {}
            for key, group in changes.items():
                records |= records_of(key, self._recorded.get(key), group)
            caused: list[Alert] = []
            if self._watch is not None:
                watched, caused = self._watch[0].take_changes()
                records |= watched
            told = {each.key.encode(): encode(each) for each in self._service.take_deliveries()}
            if not records and not told and offset is None:
                return True
            alerts = [encode_transition(each) for each in caused]
            if not await self._ledger.write(records, offset, told, alerts):
                self._stand_by()
                self._reader.rejoin()
                return False
            if self._read_to == offset:
                self._read_to = None
            for key, group in changes.items():
                if group is None:
                    self._recorded.pop(key, None)
                else:
                    self._recorded[key] = group
            return True

    async def _look_after(self, data: DataHealth, who: DataMonitor) -> None:
        """Look at the data from time to time while this is the active notifier; what follows is recorded with the next batch."""
        while True:
            await asyncio.sleep(data.settings.check_every_seconds)
            turn = self._turn
            if not self._active:
                continue
            try:
                seen = await who.look()
            except (BrokerUnavailable, ConfigError) as error:
                log.warning("the data's health cannot be looked at now", why=str(error))
                continue
            if self._active and turn == self._turn:
                data.take_in(seen, self._service.clock.now_ms())

    def _obey(self, commands: list[Command]) -> None:
        self._service.obey(commands)
        if self._watch is None:
            return
        for command in commands:
            if isinstance(command, Acknowledge):
                self._watch[0].acknowledge(command.alert_id, command.author, command.note, command.at)

    def _detail(self) -> str:
        if not self._active:
            return "standing by"
        owed = self._service.owed_from()
        return "nothing owed" if owed is None else f"owed from offset {owed}"

    def _poison(self, rejected: Rejected) -> None:
        self._metrics.rejected.labels(rejected.reason).inc()
        log.warning("alerts topic holds a record that is no alert; skipped", offset=rejected.record.offset, why=rejected.message)
