"""The notify part: transitions from the alerts topic to people.

First form, at least once: the committed offset never passes a transition somebody has still to be told about, so what was owed
when a process died is read, grouped and sent again under the same key; a receiver that knows the key drops the double.
"""

from __future__ import annotations

from service.alerts.control_topic import ControlReader
from service.alerts.notifications import NotificationService
from service.alerts.topic import AlertTopicReader
from service.domain import Rejected
from service.observability.health import Health
from service.observability.logging import get_logger
from service.observability.metrics import Metrics
from service.settings import KafkaSettings

log = get_logger("notify")


class NotifyPart:
    """Reader and notification service. It reads on while a receiver is away; only that receiver waits."""

    name = "notify"

    def __init__(self, kafka: KafkaSettings, service: NotificationService, *, metrics: Metrics, health: Health) -> None:
        self._reader = AlertTopicReader(kafka, "notify", on_poison=self._poison)
        self._control = ControlReader(kafka, service.obey)
        self._service = service
        self._metrics = metrics
        self._health = health
        self._read_to: dict[int, int] = {}
        self._committed: dict[int, int] = {}
        self._turn = -1

    async def start(self) -> None:
        """Connect to Kafka and begin to deliver. Raises ``BrokerUnavailable`` or ``ConfigError``."""
        self._health.beat(self.name, ready=False, detail="connecting")
        await self._control.start()  # a silence said before must hold before anything is sent
        await self._reader.start()
        await self._service.start()

    async def run(self) -> None:
        """Work until asked to stop."""
        async for batch in self._reader.batches():
            if batch.turn != self._turn:  # another notifier may have worked meanwhile: what it told is not ours to repeat
                self._service.forget()
                self._read_to, self._committed, self._turn = {}, {}, batch.turn
            self._service.accept([(item.alert, item.offset) for item in batch.transitions])
            self._read_to |= batch.next_offsets
            await self._commit_settled()
            owed = self._service.owed_from()
            self._health.beat(self.name, ready=True, detail="nothing owed" if owed is None else f"owed from offset {owed}")

    def request_stop(self) -> None:
        """Read no more; start no new message."""
        self._reader.request_stop()
        self._service.request_stop()

    async def close(self) -> None:
        """Finish the tries in flight, commit what they settled, leave the group."""
        await self._service.close()
        await self._commit_settled()
        await self._reader.close()
        await self._control.close()

    async def _commit_settled(self) -> None:
        owed = self._service.owed_from()
        # the alerts topic has one partition, so one offset orders everything owed
        settled = {p: read if owed is None else min(read, owed) for p, read in self._read_to.items()}
        if settled != self._committed and await self._reader.commit(settled, self._turn):
            self._committed = settled

    def _poison(self, rejected: Rejected) -> None:
        self._metrics.rejected.labels(rejected.reason).inc()
        log.warning("alerts topic holds a record that is no alert; skipped", offset=rejected.record.offset, why=rejected.message)
