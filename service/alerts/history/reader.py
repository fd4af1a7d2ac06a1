"""The alert history read back from Elasticsearch: filters, pages, one alert with all that happened to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal, TypedDict, Unpack

import msgspec

from service.alerts.history.base import PastAlert
from service.alerts.history.elasticsearch_client import ElasticsearchClient
from service.alerts.history.past import UNUSED, is_about, past_alert, remark
from service.alerts.times import iso
from service.domain import Severity, Status
from service.settings import ElasticsearchSettings


class AlertWithEvents(msgspec.Struct, frozen=True):
    """One alert's document, its transitions in order (``alert_documents.document``), and the newest messages about it, oldest first
    (``delivery_documents.delivery_document``, without the other alerts they name)."""

    alert: dict[str, Any]
    events: list[dict[str, Any]]
    notifications: list[dict[str, Any]] = []


class Page(msgspec.Struct, frozen=True):
    """Some documents, and the position behind them (``None`` at the end)."""

    documents: list[dict[str, Any]]
    next: list[Any] | None


NEWEST_ALERTS: list[dict[str, Any]] = [{"@timestamp": "desc"}, {"tidewatch.alert_id": "asc"}]
NEWEST_EVENTS: list[dict[str, Any]] = [*NEWEST_ALERTS, {"event.sequence": "desc"}]
NEWEST_NOTIFICATIONS: list[dict[str, Any]] = [{"@timestamp": "desc"}, {"tidewatch.receiver": "asc"}]


PAST_ALERTS, PAST_REMARKS = 50, 200  # of one entity, in one look-up


class HistoryFilters(TypedDict, total=False):
    """Which alerts: ``since`` and ``until`` (ms) bound the start; ``entity`` may hold ``*`` and ``?``; ``severity`` is the least
    peak severity; ``told_only`` leaves out alerts that never fired."""

    since: int | None
    until: int | None
    entity: str | None
    severity: Severity | None
    status: Status | None
    told_only: bool


class AlertHistory:
    """Reads the history back, through the aliases. Every method raises ``StoreUnavailable`` or ``ConfigError``."""

    def __init__(self, settings: ElasticsearchSettings) -> None:
        self._client = ElasticsearchClient(settings)
        self._alerts = f"{settings.index_prefix}-alerts"
        self._events = f"{settings.index_prefix}-alert-events"
        self._notifications = f"{settings.index_prefix}-notifications"
        self._audit = f"{settings.index_prefix}-audit"

    async def find(self, *, limit: int = 50, **filters: Unpack[HistoryFilters]) -> list[dict[str, Any]]:
        """Alert documents, newest start first."""
        found: list[dict[str, Any]] = []
        async for each in self.scan(page=min(limit, 1000), **filters):
            found.append(each)
            if len(found) >= limit:
                break
        return found

    async def scan(self, *, page: int = 1000, **filters: Unpack[HistoryFilters]) -> AsyncIterator[dict[str, Any]]:
        """As ``find``, every document, a page at a time (``search_after``, so any number of them)."""
        query = history_query(**filters)
        after: Sequence[Any] | None = None
        while True:
            found = await self.page(query, page, after)
            for each in found.documents:
                yield each
            if found.next is None:
                return
            after = found.next

    async def page(
        self, query: dict[str, Any], size: int, after: Sequence[Any] | None = None, *, of: Literal["alerts", "events"] = "alerts"
    ) -> Page:
        """Up to ``size`` documents of ``query`` (``history_query``), newest first, behind the position ``after``."""
        index, order = (self._alerts, NEWEST_ALERTS) if of == "alerts" else (self._events, NEWEST_EVENTS)
        hits = await self._client.search(index, query, sort=order, size=size, after=after)
        return Page([hit["_source"] for hit in hits], hits[-1]["sort"] if len(hits) == size else None)

    async def reach(self) -> str:
        """Reach the server with these credentials; the cluster's name and state in one sentence."""
        return await self._client.check()

    async def show(self, alert_id: str) -> AlertWithEvents | None:
        """One alert, its transitions, and the messages about it. An unambiguous beginning of its id is enough; ``None`` when no
        alert, or more than one, has it."""
        start: dict[str, Any] = {"prefix": {"tidewatch.alert_id": {"value": alert_id.lower()}}}
        found = await self._client.search(self._alerts, start, sort=[{"tidewatch.alert_id": "asc"}], size=2)
        if not found or (len(found) > 1 and found[0]["_source"]["tidewatch"]["alert_id"] != alert_id):
            return None
        whole = found[0]["_source"]
        exact = {"term": {"tidewatch.alert_id": whole["tidewatch"]["alert_id"]}}
        events = await self._client.search(self._events, exact, sort=[{"event.sequence": "asc"}], size=1000)
        messages = await self._client.search(
            self._notifications, exact, sort=NEWEST_NOTIFICATIONS, size=1000, without=["tidewatch.alert_id"]
        )
        return AlertWithEvents(whole, [hit["_source"] for hit in events], [hit["_source"] for hit in reversed(messages)])

    async def past_alerts(self, entity: str, before: int) -> list[PastAlert]:
        """The newest alerts of this entity that fired and began before ``before`` (ms), newest first, with what operators said."""
        wanted = history_query(until=before, told_only=True)
        wanted["bool"]["filter"].append({"term": {"tidewatch.entity": entity}})
        hits = await self._client.search(self._alerts, wanted, sort=NEWEST_ALERTS, size=PAST_ALERTS, without=UNUSED)
        documents = [hit["_source"] for hit in hits]
        if not documents:
            return []
        ids = {"terms": {"tidewatch.alert_id": [each["tidewatch"]["alert_id"] for each in documents]}}
        said = await self._client.search(self._audit, ids, sort=[{"@timestamp": "desc"}], size=PAST_REMARKS)
        return [past_alert(each, [remark(hit["_source"]) for hit in said if is_about(hit["_source"], each)]) for each in documents]

    async def refresh(self) -> None:
        """Make what was just written visible to searches."""
        await self._client.refresh([self._alerts, self._events, self._notifications])

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


def history_query(
    *,
    since: int | None = None,
    until: int | None = None,
    entity: str | None = None,
    severity: Severity | None = None,
    status: Status | None = None,
    told_only: bool = False,
    alert_id: str | None = None,
    action: str | None = None,
) -> dict[str, Any]:
    """The Elasticsearch query of these filters (see ``HistoryFilters``; ``action`` is of events). Pure."""
    wanted: list[dict[str, Any]] = []
    bounds = {name: iso(ms) for name, ms in (("gte", since), ("lt", until)) if ms is not None}
    if bounds:
        wanted.append({"range": {"@timestamp": bounds}})
    if entity is not None:
        wanted.append({"wildcard": {"tidewatch.entity": {"value": entity}}})
    if severity is not None:
        severe = [str(each) for each in Severity if each.rank >= severity.rank]
        wanted.append({"terms": {"tidewatch.peak_severity": severe}})
    if status is not None:
        wanted.append({"term": {"tidewatch.status": str(status)}})
    if told_only:
        wanted.append({"exists": {"field": "tidewatch.fired_at"}})
    if alert_id is not None:
        wanted.append({"term": {"tidewatch.alert_id": alert_id}})
    if action is not None:
        wanted.append({"term": {"event.action": action}})
    return {"bool": {"filter": wanted}} if wanted else {"match_all": {}}
