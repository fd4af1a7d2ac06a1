"""The alert history in Elasticsearch: monthly indices by the alert's start. External versions make it safe to write again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import stamina

from service.alerts.control.commands import Command
from service.alerts.control.mutes import MuteReason
from service.alerts.history.alert_documents import MAPPINGS, document, event_document, event_id
from service.alerts.history.command_documents import COMMAND_MAPPINGS, command_document, command_document_id
from service.alerts.history.delivery_documents import DELIVERY_MAPPINGS, delivery_document, version
from service.alerts.history.elasticsearch_client import ElasticsearchClient, Operation
from service.alerts.times import month
from service.alerts.topics.deliveries import Delivery
from service.domain import Alert
from service.errors import ConfigError, StoreUnavailable
from service.observability.logging import get_logger
from service.settings import ElasticsearchSettings

log = get_logger("store")

Refused = Callable[[Mapping[str, Any], str], None]
BULK_DOCUMENTS = 500
BULK_DELIVERIES = 20  # one of them may name fifty thousand alerts


def log_refused(document: Mapping[str, Any], reason: str) -> None:
    """Default of ``on_refused``: one error line with the document's id."""
    log.error("document refused for good", id=document["event"]["id"], why=reason)


def never_muted(_alert: Alert) -> str | None:
    """Default of ``muted``."""
    return None


class ElasticsearchAlertStore:
    """``AlertStore`` on Elasticsearch.

    ``on_refused(document, reason)`` is called for a document that the server will never take (a mapping error, for instance);
    the others of the same write are stored all the same. ``muted(alert)``: why nobody was notified, for the document.
    """

    def __init__(
        self,
        settings: ElasticsearchSettings,
        *,
        on_refused: Refused = log_refused,
        muted: MuteReason = never_muted,
        attempts: int = 4,
    ) -> None:
        self._settings = settings
        self._client = ElasticsearchClient(settings)
        self._on_refused = on_refused
        self._muted = muted
        self._attempts = attempts
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
        await self._write([operation for alert in alerts for operation in self._operations(alert)], BULK_DOCUMENTS)

    async def write_commands(self, commands: Sequence[Command]) -> None:
        """Store commands in the audit log, an event each. Safe to repeat. Raises ``StoreUnavailable`` as ``write`` does."""
        pending = []
        former = await self._in_former_audit([command_document_id(command) for command in commands])
        for command in commands:
            if (name := command_document_id(command)) not in former:
                target = {"_index": f"{self._audit}-{month(command.at)}", "_id": name}
                # a command never changes, so any version will do to make a repetition a 409
                pending.append(({"index": {**target, "version": 1, "version_type": "external"}}, command_document(command)))
        await self._write(pending, BULK_DOCUMENTS)

    async def write_deliveries(self, deliveries: Sequence[Delivery]) -> None:
        """Store how messages fared, a document each; the newest state stays. Raises ``StoreUnavailable`` as ``write`` does."""
        pending = []
        for each in deliveries:
            target = {"_index": f"{self._notifications}-{month(each.owed_at)}", "_id": each.key}
            pending.append(({"index": {**target, "version": version(each), "version_type": "external"}}, delivery_document(each)))
        await self._write(pending, BULK_DELIVERIES)

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

    async def _write(self, pending: list[Operation], at_once: int) -> None:
        for start in range(0, len(pending), at_once):
            await self._write_chunk(pending[start : start + at_once])

    async def _write_chunk(self, pending: list[Operation]) -> None:
        async for attempt in stamina.retry_context(on=StoreUnavailable, attempts=self._attempts, timeout=None, wait_max=2.0):
            with attempt:
                pending = await self._send(pending)
                if pending:
                    raise StoreUnavailable(f"Elasticsearch asks to slow down: {len(pending)} documents not yet taken.")

    async def _send(self, operations: list[Operation]) -> list[Operation]:
        """Send once; returns the operations to try again, in order."""
        again = []
        for operation, result in zip(operations, await self._client.bulk(operations), strict=True):
            status = int(result["status"])
            if status < 300 or status == 409:  # 409: a newer state is there already, so this one has nothing to add
                continue
            if status == 429 or status >= 500:
                again.append(operation)
            else:
                problem = result.get("error", {})
                self._on_refused(operation[1], f"{problem.get('type', status)}: {problem.get('reason', '')}")
        return again

    def _operations(self, alert: Alert) -> list[Operation]:
        started, whole = month(alert.started_at), document(alert, self._muted(alert))
        state = {"_index": f"{self._alerts}-{started}", "_id": alert.alert_id}
        event = {"_index": f"{self._events}-{started}", "_id": event_id(alert)}
        return [
            ({"index": {**state, "version": alert.seq, "version_type": "external"}}, whole),
            # Also versioned, so that writing the same event again is a 409 and not a new revision.
            ({"index": {**event, "version": alert.seq, "version_type": "external"}}, event_document(whole, alert)),
        ]
