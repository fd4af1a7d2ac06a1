"""The audit log that earlier versions wrote to ``tidewatch-words-*`` is read with what is written to ``tidewatch-audit-*`` now."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import pytest
from elasticsearch import AsyncElasticsearch

from service.alerts.control.commands import Acknowledge, Mark
from service.alerts.history.command_documents import COMMAND_MAPPINGS, command_document
from service.alerts.history.elasticsearch import ElasticsearchAlertStore
from service.settings import ElasticsearchSettings
from tests.alerts.makers import BORN

pytestmark = pytest.mark.elasticsearch

OLD = Mark(
    id="m1", alert_id="a" * 32, verdict="false", entity="db-7", metrics=("cpu",), author="Ada", at=BORN * 1000, note="backup"
)
NEW = Acknowledge(id="a1", alert_id="b" * 32, entity="db-8", author="Bob", at=BORN * 1000 + 1000)


@pytest.fixture
def settings(elasticsearch_url: str) -> ElasticsearchSettings:
    return ElasticsearchSettings(url=elasticsearch_url, index_prefix=f"test-{uuid.uuid4().hex[:8]}")


@pytest.fixture
async def client(settings: ElasticsearchSettings) -> AsyncIterator[AsyncElasticsearch]:
    made = AsyncElasticsearch(settings.url)
    yield made
    await made.close()


async def test_both_are_read_by_the_alias_and_no_command_stands_in_it_twice(
    settings: ElasticsearchSettings, client: AsyncElasticsearch
) -> None:
    words = f"{settings.index_prefix}-words"  # as the version before left it
    await client.indices.create(index=f"{words}-2025.11", mappings=COMMAND_MAPPINGS, aliases={words: {}})
    await client.index(
        index=f"{words}-2025.11", id="mark-m1", document=command_document(OLD), version=1, version_type="external", refresh=True
    )
    store = ElasticsearchAlertStore(settings)
    await store.install_templates()
    await store.install_templates()
    await store.write_commands([OLD, NEW])  # after a restart the control topic is read from its beginning
    await store.close()
    await client.indices.refresh(index=f"{settings.index_prefix}-*")

    for alias in ("audit", "words"):  # the second: queries and data views that operators have made for themselves
        found = await client.search(index=f"{settings.index_prefix}-{alias}", sort="@timestamp", size=10)
        hits = [(hit["_index"].removeprefix(f"{settings.index_prefix}-"), hit["_id"]) for hit in found["hits"]["hits"]]
        assert hits == [("words-2025.11", "mark-m1"), ("audit-2025.11", "acknowledge-a1")]


async def test_without_earlier_data_there_is_only_the_audit_index(
    settings: ElasticsearchSettings, client: AsyncElasticsearch
) -> None:
    store = ElasticsearchAlertStore(settings)
    await store.install_templates()
    await store.write_commands([OLD, NEW])
    await store.write_commands([OLD, NEW])
    await store.close()
    assert list(await client.indices.get(index=f"{settings.index_prefix}-*")) == [f"{settings.index_prefix}-audit-2025.11"]
