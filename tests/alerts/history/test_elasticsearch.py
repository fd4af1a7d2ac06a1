"""The history on a real Elasticsearch: indices, mappings, refusals, filters."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
import pytest
from elasticsearch import ApiError, AsyncElasticsearch

from service.alerts.history.alert_documents import document, event_id
from service.alerts.history.elasticsearch import ElasticsearchAlertStore
from service.alerts.history.reader import AlertHistory
from service.domain import Severity, Status
from service.errors import ConfigError, StoreUnavailable
from service.settings import ElasticsearchSettings
from tests.alerts.makers import BORN, alert, life

pytestmark = pytest.mark.elasticsearch

DAY_MS = 86_400_000


@pytest.fixture
def settings(elasticsearch_url: str) -> ElasticsearchSettings:
    return ElasticsearchSettings(url=elasticsearch_url, index_prefix=f"test-{uuid.uuid4().hex[:8]}")


@pytest.fixture
async def store(settings: ElasticsearchSettings) -> AsyncIterator[ElasticsearchAlertStore]:
    made = ElasticsearchAlertStore(settings)
    await made.install_templates()
    yield made
    await made.close()


@pytest.fixture
async def history(settings: ElasticsearchSettings) -> AsyncIterator[AlertHistory]:
    made = AlertHistory(settings)
    yield made
    await made.close()


@pytest.fixture
async def client(elasticsearch_url: str) -> AsyncIterator[AsyncElasticsearch]:
    made = AsyncElasticsearch(elasticsearch_url)
    yield made
    await made.close()


async def test_the_month_is_the_start_s_even_when_the_alert_ends_in_the_next(
    store: ElasticsearchAlertStore, settings: ElasticsearchSettings, client: AsyncElasticsearch
) -> None:
    last_of_november = 1_764_547_190_000  # 2025-11-30 23:59:50 UTC
    opened, fired, resolved = life(started_at=last_of_november)
    await store.write([opened, fired, resolved])
    held = await client.get(index=f"{settings.index_prefix}-alerts-2025.11", id=fired.alert_id)
    assert held["_version"] == 3
    assert held["_source"]["event"]["end"] == "2025-12-01T00:01:20.000Z"
    assert await client.exists(index=f"{settings.index_prefix}-alert-events-2025.11", id=event_id(resolved))
    assert not await client.indices.exists(index=f"{settings.index_prefix}-alerts-2025.12")


async def test_installing_twice_is_fine_and_a_label_never_becomes_a_field(
    store: ElasticsearchAlertStore, settings: ElasticsearchSettings, client: AsyncElasticsearch, history: AlertHistory
) -> None:
    await store.install_templates()
    await store.write([alert(labels={"rack": "7", "never_seen_before": "x"})])
    await history.refresh()
    mapping = (await client.indices.get_mapping(index=f"{settings.index_prefix}-alerts"))[
        f"{settings.index_prefix}-alerts-2025.11"
    ]["mappings"]
    assert mapping["dynamic"] == "false"
    assert mapping["properties"]["labels"] == {"type": "flattened", "ignore_above": 1024}
    by_label = await client.search(index=f"{settings.index_prefix}-alerts", query={"term": {"labels.rack": "7"}})
    assert by_label["hits"]["total"]["value"] == 1


async def test_a_document_the_server_will_never_take_is_handed_back_and_the_others_are_stored(
    settings: ElasticsearchSettings, history: AlertHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[tuple[Mapping[str, Any], str]] = []
    store = ElasticsearchAlertStore(settings, on_refused=lambda operation, reason: refused.append((operation[1], reason)))
    await store.install_templates()

    def broken(each: Any, muted_by: str | None) -> dict[str, Any]:
        made = document(each, muted_by)
        if each.entity == "bad":
            made["event"]["start"] = "not a date"
        return made

    monkeypatch.setattr("service.alerts.history.elasticsearch.document", broken)
    await store.write([alert("good"), alert("bad"), alert("better")])
    await store.close()
    assert [doc["tidewatch"]["entity"] for doc, _ in refused] == ["bad", "bad"]  # its state and its event
    assert "document_parsing_exception" in refused[0][1]
    await history.refresh()
    assert {found["tidewatch"]["entity"] for found in await history.find()} == {"good", "better"}


async def test_the_history_is_filtered_by_time_entity_severity_and_status(
    store: ElasticsearchAlertStore, history: AlertHistory
) -> None:
    base = BORN * 1000
    await store.write(
        [
            *life("db-1", Severity.CRITICAL, started_at=base),
            alert("db-2", severity=Severity.WARNING, started_at=base + DAY_MS),
            alert("web-1", severity=Severity.INFO, started_at=base + 2 * DAY_MS),
            alert("web-2", status=Status.PENDING, severity=Severity.INFO, seq=1, started_at=base + 3 * DAY_MS),
        ]
    )
    await history.refresh()

    async def entities(**filters: Any) -> list[str]:
        return [found["host"]["name"] for found in await history.find(**filters)]

    assert await entities() == ["web-2", "web-1", "db-2", "db-1"]  # newest start first
    assert await entities(limit=2) == ["web-2", "web-1"]
    assert await entities(entity="db-*") == ["db-2", "db-1"]
    assert await entities(severity=Severity.WARNING) == ["db-2", "db-1"]
    assert await entities(status=Status.FIRING) == ["web-1", "db-2"]
    assert await entities(since=base + 1, until=base + 3 * DAY_MS) == ["web-1", "db-2"]
    assert await entities(told_only=True) == ["web-1", "db-2", "db-1"]
    assert [found["host"]["name"] async for found in history.scan(page=1)] == ["web-2", "web-1", "db-2", "db-1"]


async def test_one_alert_is_shown_with_its_transitions_by_the_beginning_of_its_id(
    store: ElasticsearchAlertStore, history: AlertHistory
) -> None:
    transitions = life()
    await store.write([*transitions, *life("other")])
    await history.refresh()
    shown = await history.show(transitions[0].alert_id[:10])
    assert shown is not None
    assert shown.alert["event"]["action"] == "resolved"
    assert [event["event"]["action"] for event in shown.events] == ["opened", "fired", "resolved"]
    assert await history.show("zz") is None
    assert await history.show("") is None  # every alert begins like this


async def test_a_storm_leaves_ten_thousand_documents(store: ElasticsearchAlertStore, history: AlertHistory) -> None:
    await store.write([alert(f"host-{n}") for n in range(10_000)])
    await history.refresh()
    assert len({found["tidewatch"]["entity"] async for found in history.scan()}) == 10_000


async def test_an_empty_history_is_empty(history: AlertHistory) -> None:
    assert await history.find() == []
    assert await history.show("ab") is None


@pytest.mark.usefixtures("store")  # for its templates
async def test_an_index_whose_shards_are_not_there_yet_is_waited_for(
    settings: ElasticsearchSettings, client: AsyncElasticsearch, history: AlertHistory
) -> None:
    alias, allocation = f"{settings.index_prefix}-alerts", "index.routing.allocation.enable"
    index = f"{alias}-2025.11"
    await client.indices.create(index=index, aliases={alias: {}}, settings={allocation: "none"}, wait_for_active_shards="0")
    with pytest.raises(ApiError, match="503"):
        await client.search(index=alias)
    found = asyncio.create_task(history.find())
    await asyncio.sleep(0.3)
    assert not found.done()
    await client.indices.put_settings(index=index, settings={allocation: "all"})
    assert await found == []


async def test_a_server_that_is_away_is_a_retry_with_a_clear_sentence() -> None:
    store = ElasticsearchAlertStore(ElasticsearchSettings(url="http://127.0.0.1:1"), attempts=2)
    with pytest.raises(StoreUnavailable, match=r"Elasticsearch at http://127.0.0.1:1 does not answer\."):
        await store.write([alert()])
    await store.close()


async def test_an_address_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match=r"elasticsearch\.url"):
        ElasticsearchAlertStore(ElasticsearchSettings(url="not a url"))


def test_the_document_is_one_readable_sentence_and_ecs() -> None:
    _, fired, resolved = life(labels={"rack": "7"})
    made = document(fired)
    assert made["@timestamp"] == made["event"]["start"] == "2025-11-22T00:00:00.000Z"
    assert made["message"] == (
        "db-7 is behaving unusually since 2025-11-22 00:00:00 UTC, mainly cpu_percent and memory_percent: "
        "extremely unusual, about one window in 380,000 in normal operation."
    )
    assert made["event"]["kind"] == "alert"
    assert made["event"]["risk_score_norm"] == pytest.approx(93.0)
    assert made["tidewatch"]["metric_names"] == ["cpu_percent", "memory_percent"]
    assert "end" not in made["event"]
    closed = document(resolved)
    assert closed["event"]["duration"] == 90_000_000_000
    msgspec.json.encode(closed)  # nothing in it that JSON cannot say
