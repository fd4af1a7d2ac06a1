"""No answer of a store ends anything, loses a document or stores one twice; only a document that alone is at fault is set aside."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from aiohttp import web
from elasticsearch import AsyncElasticsearch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.alerts.history.bulk import BulkWriter, chunks
from service.alerts.history.elasticsearch import ElasticsearchAlertStore
from service.alerts.history.elasticsearch_client import ElasticsearchClient, Operation
from service.alerts.history.letters import operation_of, target
from service.alerts.history.reader import AlertHistory
from service.alerts.times import index_month
from service.domain import Record
from service.errors import StoreUnavailable
from service.settings import ElasticsearchSettings
from tests.alerts.makers import alert, life

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 600) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["items", "index", "status", "error"]), inner),
    max_leaves=8,
)
TYPES = ["cluster_block_exception", "index_closed_exception", "validation_exception", "security_exception", "unheard_of"]
ITEM = st.builds(
    lambda status, kind: {"index": {"status": status, "error": {"type": kind, "reason": "r"}}},
    st.sampled_from([400, 401, 403, 404, 413, 429, 500, 503]),
    st.sampled_from([*TYPES, "document_parsing_exception", "illegal_argument_exception"]),
)
BODY = st.one_of(
    st.sampled_from([b"", b"{}", b"<html>Sign in</html>", b"\xff\xfe", b"[]", b"null"]),
    JSON.map(msgspec.json.encode),
    ITEM.map(lambda item: msgspec.json.encode({"errors": True, "items": [item]})),
)
STATUS = st.sampled_from([200, 201, 302, 400, 401, 403, 404, 408, 409, 413, 418, 429, 500, 502, 503, 504])


def operation(name: str, **fields: Any) -> Operation:
    return {"index": {"_index": "i", "_id": name, "version": 1, "version_type": "external"}}, {"event": {"id": name}, **fields}


class Server:
    """Answers bulks: first what it is told to, then as Elasticsearch does. It keeps what it has taken."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, bytes, bool]] = []
        self.limit = 1 << 30
        self.sizes: list[int] = []
        self.stored: dict[str, int] = {}

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        product = {"X-Elastic-Product": "Elasticsearch"}
        if self.answers:
            status, content, genuine = self.answers.pop(0)
            place = {"Location": "http://127.0.0.1:1/"} if status == 302 else {}
            kind = "application/json" if genuine else "text/html"
            return web.Response(status=status, body=content, content_type=kind, headers=(product if genuine else {}) | place)
        if len(body) > self.limit:
            return web.Response(status=413, text="<html>413</html>", content_type="text/html")
        self.sizes.append(len(body))
        items = []
        for line in body.splitlines()[::2]:
            name = msgspec.json.decode(line)["index"]["_id"]
            again = name in self.stored
            self.stored[name] = self.stored.get(name, 0) + (not again)
            error = {"error": {"type": "version_conflict_engine_exception", "reason": ""}} if again else {}
            items.append({"index": {"status": 409 if again else 201, **error}})
        return web.json_response({"errors": False, "items": items}, headers=product)


@pytest.fixture
async def server() -> AsyncIterator[tuple[Server, str]]:
    made = Server()
    app = web.Application(client_max_size=1 << 28)
    app.router.add_route("*", "/{path:.*}", made.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield made, f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


def test_whatever_a_server_answers_is_waited_for_and_then_all_is_stored_once() -> None:
    async def holds(answers: list[tuple[int, bytes, bool]]) -> None:
        server, refused = Server(), list[str]()
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", server.handle)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        client = ElasticsearchClient(ElasticsearchSettings(url=f"http://127.0.0.1:{runner.addresses[0][1]}"))
        writer = BulkWriter(client.bulk, lambda each, why: refused.append(why), max_bytes=100_000, attempts=1)
        server.answers = list(answers)
        try:
            for _ in range(len(answers) + 1):
                try:
                    await writer.write([operation("a", labels={"rack": "1"})], 10)
                    break
                except StoreUnavailable:
                    continue
        finally:
            await client.close()
            await runner.cleanup()
        claimed = any(status < 300 and b'"items"' in body and genuine for status, body, genuine in answers)
        assert server.stored == {"a": 1} or claimed
        assert not refused or server.stored == {"a": 1} or claimed

    @settings(max_examples=150, deadline=None)
    @given(st.lists(st.tuples(STATUS, BODY, st.booleans()), max_size=3))
    def check(answers: list[tuple[int, bytes, bool]]) -> None:
        asyncio.run(holds(answers))

    check()


async def test_a_proxy_s_limit_halves_the_bulk_until_it_fits(server: tuple[Server, str]) -> None:
    behind, url = server
    behind.limit = 20_000
    client = ElasticsearchClient(ElasticsearchSettings(url=url))
    refused: list[str] = []
    writer = BulkWriter(client.bulk, lambda each, why: refused.append(each[1]["event"]["id"]), max_bytes=500_000, attempts=1)
    names = [f"n{number}" for number in range(40)]
    too_large = operation("large", text="x" * 50_000)
    await writer.write([*(operation(name, text="y" * 4000) for name in names), too_large], 500)
    await client.close()
    assert behind.stored == dict.fromkeys([*names, "large"], 1)  # of the large one its plain form
    assert refused == ["large"]
    assert max(behind.sizes) <= behind.limit


@given(st.lists(st.integers(0, 3000), max_size=50), st.integers(1, 20), st.integers(1000, 10_000))
def test_a_chunk_keeps_to_count_and_bytes_and_nothing_is_left_out(sizes: list[int], at_once: int, most: int) -> None:
    operations = [operation(str(at), text="z" * size) for at, size in enumerate(sizes)]
    made = list(chunks(operations, at_once, most))
    assert [each for chunk in made for each in chunk] == operations
    for chunk in made:
        assert len(chunk) <= at_once
        assert len(chunk) == 1 or sum(len(msgspec.json.encode(each)) for each in chunk) <= most


@given(st.integers(-(10**12), 4 * 10**12))
def test_no_time_that_a_clock_claims_makes_more_than_26_months(claimed: int) -> None:
    now = 1_796_083_200_000  # 2026-12-01
    assert "2024.11" <= index_month(claimed, now) <= "2026.12"


def test_a_letter_says_where_its_document_belongs() -> None:
    made = operation("a", labels={"rack": "1"})
    record = Record("tidewatch.alerts", 0, -1, 0, b"a", msgspec.json.encode(made[1]), target(made[0]))
    assert operation_of(record) == made
    assert operation_of(Record("tidewatch.alerts", 0, -1, 0, b"a", b"{}")) is None
    assert operation_of(Record("tidewatch.alerts", 0, -1, 0, b"a", b"{}", (("document-target", None),))) is None


class Real:
    """A store on a real Elasticsearch, with one try a call."""

    def __init__(self, url: str) -> None:
        self.settings = ElasticsearchSettings(url=url, index_prefix=f"test-{uuid.uuid4().hex[:8]}")
        self.refused: list[Operation] = []
        self.store = ElasticsearchAlertStore(self.settings, on_refused=lambda each, why: self.refused.append(each), attempts=1)
        self.history = AlertHistory(self.settings)
        self.client = AsyncElasticsearch(url)
        self.index = f"{self.settings.index_prefix}-alerts-2025.11"

    async def entities(self) -> list[str]:
        await self.history.refresh()
        return [found["host"]["name"] for found in await self.history.find()]


@pytest.fixture
async def real(elasticsearch_url: str) -> AsyncIterator[Real]:
    made = Real(elasticsearch_url)
    await made.store.install_templates()
    yield made
    for each in (made.store, made.history, made.client):
        await each.close()


@pytest.mark.elasticsearch
@pytest.mark.parametrize("state", ["write block", "read-only block", "closed", "mapping conflict", "shard limit"])
async def test_what_the_server_takes_again_later_is_stored_then(real: Real, state: str) -> None:
    indices = real.client.indices
    if state == "mapping conflict":
        await indices.create(index=real.index, mappings={"properties": {"labels": {"type": "long"}}})
    elif state == "shard limit":
        await real.client.cluster.put_settings(persistent={"cluster.max_shards_per_node": 1})
    else:
        await real.store.write([alert("before")])
    block = {"write block": "index.blocks.write", "read-only block": "index.blocks.read_only"}.get(state)
    if block:
        await indices.put_settings(index=real.index, settings={block: True})
    elif state == "closed":
        await indices.close(index=real.index)
    try:
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await real.store.write([alert("during", labels={"rack": "7"})])
    finally:
        if block:
            await indices.put_settings(index=real.index, settings={block: None})
        elif state == "closed":
            await indices.open(index=real.index, wait_for_active_shards="1")
        elif state == "mapping conflict":
            await indices.delete(index=real.index)
        else:
            await real.client.cluster.put_settings(persistent={"cluster.max_shards_per_node": None})
    await real.store.write([alert("during", labels={"rack": "7"})])
    assert "during" in await real.entities()
    assert real.refused == []


@pytest.mark.elasticsearch
async def test_a_label_s_name_with_nul_hides_no_alert(real: Real) -> None:
    await real.store.write([alert("lab-nul", labels={"ra\0ck": "7", "role": "db"})])
    assert await real.entities() == ["lab-nul"]
    assert real.refused == []


@pytest.mark.elasticsearch
async def test_one_document_alone_at_fault_is_set_aside_and_can_be_written_back(
    real: Real, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.alerts.history.alert_documents.storable", dict)
    await real.store.write([alert("odd", labels={"ra\0ck": "7"})])  # alone in its request
    assert await real.entities() == ["odd"]  # without its labels
    assert len(real.refused) == 2  # its state and its event
    for _, document in real.refused:
        document["labels"] = {"rack": "7"}
    await real.store.write_again(real.refused)
    await real.store.write_again(real.refused)
    await real.history.refresh()
    assert [found["labels"] for found in await real.history.find()] == [{"rack": "7"}]


@pytest.mark.elasticsearch
async def test_an_alert_of_1973_stays_in_one_index_of_the_current_month(real: Real) -> None:
    opened, fired, resolved = life(started_at=100_000_000_000)
    await real.store.write([opened, fired])
    await real.store.write([resolved])
    found = await real.client.indices.get(index=f"{real.settings.index_prefix}-alerts-*")
    assert len(found) == 1
    assert not any("1973" in name for name in found)
