"""The store part: transitions, messages and operators' commands, from their topics into the alert store.

It commits only what is stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import stamina

from service.alerts.control.commands import Command
from service.alerts.history.base import AlertStore, DeadLetterSink
from service.alerts.history.elasticsearch_client import Operation
from service.alerts.history.letters import DOCUMENT_REFUSED, target
from service.alerts.history.mute_annotator import MuteAnnotator
from service.alerts.topics.deliveries import Delivery
from service.alerts.topics.reader import AlertBatch, AlertTopicReader
from service.domain import Alert, Record, Rejected
from service.errors import BrokerUnavailable, ConfigError, StoreUnavailable
from service.observability.health import Health
from service.observability.logging import get_logger
from service.observability.metrics import Metrics
from service.runtime import close_all
from service.settings import KafkaSettings

log = get_logger("store")

# ``ConfigError`` too: what a server refuses while we run (a key that expired, a proxy that answers with a page) may be good again.
TROUBLE = (StoreUnavailable, BrokerUnavailable, ConfigError)


class StorePart:
    """Reads, stores, commits. While the server is away it reads no further, so nothing piles up in memory."""

    name = "store"

    def __init__(
        self,
        kafka: KafkaSettings,
        store: AlertStore,
        *,
        metrics: Metrics,
        health: Health,
        annotator: MuteAnnotator | None = None,
        letters: DeadLetterSink | None = None,
    ) -> None:
        """``letters``: where records go that are no alerts, and the documents that ``store`` hands to ``refused``."""
        self._topic = kafka.topics.alerts
        self._reader = AlertTopicReader(kafka, "store", on_poison=self._poison, with_deliveries=True)
        self._store = store
        self._annotator = annotator
        self._letters = letters
        self._read: dict[tuple[str, int], int] = {}  # not committed yet
        self._ownership = -1
        self._trouble = ""  # of the store or Kafka, as last logged
        self._metrics = metrics
        self._health = health
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        """Connect to Kafka. Elasticsearch may be away: the part then waits for it, not ready, with its offsets kept."""
        self._health.beat(self.name, ready=False, detail="connecting")
        if self._annotator is not None:
            await self._annotator.start()
        await self._reader.start()

    async def run(self) -> None:
        """Work until asked to stop."""
        if not await self._reader.alongside(self._until_taken(self._store.install_templates)):
            return
        async for batch in self._reader.batches():
            if not await self._write_commands():
                return
            alerts = batch.alerts
            if alerts and not await self._reader.alongside(self._until_taken(self._store.write, alerts)):
                return  # stopped while the store was away: uncommitted, so the next owner reads it again
            self._metrics.stored.inc(len(alerts))
            messages = batch.deliveries
            if messages and not await self._reader.alongside(self._until_taken(self._store.write_deliveries, messages)):
                return
            if self._letters is not None and not await self._reader.alongside(self._until_taken(self._letters.flush)):
                return
            await self._commit(batch)
            self._trouble = ""
            self._health.beat(self.name, ready=True, detail="up to date" if not alerts else f"stored {len(alerts)}")

    def request_stop(self) -> None:
        """Finish the batch in hand, or give it up uncommitted if the store is away; then return from ``run``."""
        self._stopping.set()
        self._reader.request_stop()

    async def close(self) -> None:
        """Leave the group, close the store."""
        await close_all(*(each.close for each in (self._reader, self._annotator, self._letters, self._store) if each is not None))

    async def _write_commands(self) -> bool:
        """Store the commands read since. No offset is committed for them: a restart reads all again, and repeating is safe."""
        if self._annotator is None or not self._annotator.unwritten:
            return True
        commands = list(self._annotator.unwritten)
        if not await self._reader.alongside(self._until_taken(self._store.write_commands, commands)):
            return False
        del self._annotator.unwritten[: len(commands)]
        return True

    async def _commit(self, batch: AlertBatch) -> None:
        if batch.turn != self._ownership:
            self._read, self._ownership = {}, batch.turn
        self._read |= batch.next_offsets
        if self._read and await self._reader.commit(self._read, batch.turn):
            self._read = {}

    async def _until_taken(self, call: Any, *args: Sequence[Alert] | Sequence[Command] | Sequence[Delivery]) -> bool:
        """Call until it succeeds (True) or the part is asked to stop (False)."""
        try:
            async for attempt in stamina.retry_context(on=self._still_wanted, attempts=None, timeout=None, wait_max=5.0):
                with attempt:
                    await call(*args)
        except TROUBLE:
            return False
        return True

    def _still_wanted(self, error: Exception) -> bool:
        if not isinstance(error, TROUBLE) or self._stopping.is_set():
            return False
        if str(error) != self._trouble:  # told once, not at every try
            self._trouble = str(error)
            log.error("the store takes nothing now; it is tried again", cause=self._trouble, hint=getattr(error, "hint", ""))
        self._metrics.store_retries.inc()
        self._health.beat(self.name, ready=False, detail=str(error))
        return True

    def _poison(self, rejected: Rejected) -> None:
        log.warning("skipped a record", topic=rejected.record.topic, offset=rejected.record.offset, why=rejected.message)
        if self._letters is not None:
            self._letters.keep(rejected)

    def refused(self, operation: Operation, reason: str) -> None:
        """Keep a document that alone is at fault as a dead letter, with where it belongs; the others are stored."""
        action, document = operation
        name = str(document["event"]["id"])  # of an alert, a command or a message
        log.error("document refused for good", id=name, why=reason)
        if self._letters is not None:
            record = Record(self._topic, 0, -1, 0, name.encode(errors="replace"), msgspec.json.encode(document), target(action))
            self._letters.keep(Rejected(record, DOCUMENT_REFUSED, reason))
