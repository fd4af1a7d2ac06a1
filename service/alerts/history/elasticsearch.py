"""The alert history in Elasticsearch: monthly indices by the alert's start. External versions make it safe to write again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from service.alerts.control.commands import Command
from service.alerts.control.mutes import MuteReason
from service.alerts.history.alert_documents import MAPPINGS, document, event_document, event_id
from service.alerts.history.bulk import BulkWriter, Refused
from service.alerts.history.command_documents import COMMAND_MAPPINGS, command_document, command_document_id
from service.alerts.history.delivery_documents import DELIVERY_MAPPINGS, delivery_document, version
from service.alerts.history.elasticsearch_client import ElasticsearchClient, Operation
from service.alerts.times import index_month
from service.alerts.topics.deliveries import Delivery
from service.clock import Clock, SystemClock
from service.domain import Alert
from service.errors import ConfigError
from service.observability.logging import get_logger
from service.settings import ElasticsearchSettings

log = get_logger("store")

BULK_DOCUMENTS = 500
BULK_DELIVERIES = 20  # one of them may name fifty thousand alerts


MAX_PLACES = 10_000  # alerts of an unlikely time whose index is remembered


def log_refused(operation: Operation, reason: str) -> None:
    """Default of ``on_refused``: one error line with the document's id."""
    log.error("document refused for good", id=operation[1]["event"]["id"], why=reason)


def never_muted(_alert: Alert) -> str | None:
    """Default of ``muted``."""
    return None


class ElasticsearchAlertStore:
    """``AlertStore`` on Elasticsearch.

    ``on_refused(operation, reason)`` is called for a document that is alone at fault (``bulk.py``); the others of the same write
    are stored all the same, and this one without its labels. ``muted(alert)``: why nobody was notified, for the document.
    """

    def __init__(
        self,
        settings: ElasticsearchSettings,
        *,
        on_refused: Refused = log_refused,
        muted: MuteReason = never_muted,
        attempts: int = 4,
        clock: Clock | None = None,
    ) -> None:
        self._settings = settings
        self._client = ElasticsearchClient(settings)
        self._bulk = BulkWriter(self._client.bulk, on_refused, max_bytes=settings.bulk_max_bytes, attempts=attempts)
        self._muted = muted
        self._clock = clock or SystemClock()
        self._places: OrderedDict[str, str] = OrderedDict()  # alert id → month, of alerts of an unlikely time
        self._alerts = f"{settings.index_prefix}-alerts"
        self._events = f"{settings.index_prefix}-alert-events"
        self._audit = f"{settings.index_prefix}-audit"
        self._former_audit = f"{settings.index_prefix}-words"  # the audit log before it was renamed: its indices stay and are read
        self._notifications = f"{settings.index_prefix}-notifications"

    async def install_templates(self) -> None:
        """Create or replace the index templates, and let the alias of the audit log cover its former indices too. Idempotent.

        Raises ``StoreUnavailable`` or ``ConfigError`` (not allowed).
        """
        for aliases, mappings in (
            ((self._alerts,), MAPPINGS),
            ((self._events,), MAPPINGS),
            ((self._audit, self._former_audit), COMMAND_MAPPINGS),  # what queries the former name finds new entries too
            ((self._notifications,), DELIVERY_MAPPINGS),
        ):
            template = {
                "settings": {"number_of_shards": self._settings.shards, "number_of_replicas": self._settings.replicas},
                "mappings": mappings,
                "aliases": {alias: {} for alias in aliases},
            }
            await self._client.put_template(aliases[0], f"{aliases[0]}-*", template)
        try:
            await self._client.add_alias(f"{self._former_audit}-*", self._audit)
        except ConfigError as error:  # these credentials need not manage indices: what is written does not depend on it
            log.warning("the former audit indices get no alias", indices=f"{self._former_audit}-*", why=str(error))

    async def check(self) -> str:
        """Reach the server with these credentials; one sentence. Raises ``StoreUnavailable`` or ``ConfigError``."""
        return await self._client.check()

    async def write(self, alerts: Sequence[Alert]) -> None:
        """Store transitions: the newest state of each alert, and each transition as an event. Safe to repeat.

        Raises ``StoreUnavailable`` when the server (or some shard) does not take them after a few tries; nothing is lost
        by writing the same transitions again.
        """
        months = await self._months(alerts)
        pending = [operation for alert in alerts for operation in self._operations(alert, months[alert.alert_id])]
        await self._bulk.write(pending, BULK_DOCUMENTS)

    async def write_commands(self, commands: Sequence[Command]) -> None:
        """Store commands in the audit log, an event each. Safe to repeat. Raises ``StoreUnavailable`` as ``write`` does."""
        pending = []
        former = await self._in_former_audit([command_document_id(command) for command in commands])
        for command in commands:
            if (name := command_document_id(command)) not in former:
                target = {"_index": f"{self._audit}-{index_month(command.at, self._clock.now_ms())}", "_id": name}
                # a command never changes, so any version will do to make a repetition a 409
                pending.append(({"index": {**target, "version": 1, "version_type": "external"}}, command_document(command)))
        await self._bulk.write(pending, BULK_DOCUMENTS)

    async def write_deliveries(self, deliveries: Sequence[Delivery]) -> None:
        """Store how messages fared, a document each; the newest state stays. Raises ``StoreUnavailable`` as ``write`` does."""
        pending = []
        for each in deliveries:
            target = {"_index": f"{self._notifications}-{index_month(each.owed_at, self._clock.now_ms())}", "_id": each.key}
            pending.append(({"index": {**target, "version": version(each), "version_type": "external"}}, delivery_document(each)))
        await self._bulk.write(pending, BULK_DELIVERIES)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _in_former_audit(self, ids: Sequence[str]) -> set[str]:
        """Those of these documents that the former audit indices hold: written again they would stand in the audit log twice."""
        found: set[str] = set()
        for start in range(0, len(ids), BULK_DOCUMENTS):
            some = list(ids[start : start + BULK_DOCUMENTS])
            try:
                hits = await self._client.search(f"{self._former_audit}-*", {"ids": {"values": some}}, size=len(some))
            except ConfigError as error:  # these credentials need not read
                log.warning("the former audit indices cannot be read", indices=f"{self._former_audit}-*", why=str(error))
                return found
            found |= {hit["_id"] for hit in hits}
        return found

    async def write_again(self, operations: Sequence[Operation]) -> None:
        """Store documents that were set aside, once the cause is fixed. Safe to repeat; a newer state stays."""
        pending = []
        for action, kept in operations:
            # "gte": the plain form of the same document is there with the same version, and is replaced
            pending.append(({"index": {**action["index"], "version_type": "external_gte"}}, kept))
        await self._bulk.write(pending, BULK_DELIVERIES)

    async def _months(self, alerts: Sequence[Alert]) -> dict[str, str]:
        """The index suffix of each alert. One that claims an unlikely time stays where it was first stored: an alert that began
        "in 1973" would otherwise have a document in every month in which something happens to it."""
        now = self._clock.now_ms()
        found = {alert.alert_id: index_month(alert.started_at, now, likely_only=True) for alert in alerts}
        odd = [name for name, month in found.items() if not month and name not in self._places]
        for start in range(0, len(odd), BULK_DOCUMENTS):
            some = odd[start : start + BULK_DOCUMENTS]
            held: dict[str, str] = {}
            try:
                hits = await self._client.search(self._alerts, {"ids": {"values": some}}, size=len(some), without=["*"])
                held = {hit["_id"]: hit["_index"].removeprefix(f"{self._alerts}-") for hit in hits}
            except ConfigError:
                pass  # these credentials need not read; if they may not write either, the write that follows says so
            self._places.update({name: held.get(name) or index_month(now, now) for name in some})
        months = {name: month or self._places[name] for name, month in found.items()}
        while len(self._places) > MAX_PLACES:
            self._places.popitem(last=False)
        return months

    def _operations(self, alert: Alert, month: str) -> list[Operation]:
        whole = document(alert, self._muted(alert))
        state = {"_index": f"{self._alerts}-{month}", "_id": alert.alert_id}
        event = {"_index": f"{self._events}-{month}", "_id": event_id(alert)}
        return [
            ({"index": {**state, "version": alert.seq, "version_type": "external"}}, whole),
            # Also versioned, so that writing the same event again is a 409 and not a new revision.
            ({"index": {**event, "version": alert.seq, "version_type": "external"}}, event_document(whole, alert)),
        ]
