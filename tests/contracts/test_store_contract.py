"""What every ``AlertStore`` promises, held against each of them."""

from __future__ import annotations

import random
import uuid
from collections.abc import AsyncIterator
from typing import Any, Protocol

import pytest

from service.alerts.history.base import AlertStore
from service.alerts.history.elasticsearch import ElasticsearchAlertStore
from service.alerts.history.reader import AlertHistory
from service.settings import ElasticsearchSettings
from tests.alerts.makers import alert, life
from tests.alerts.memory_store import MemoryAlertStore


class Kept(Protocol):
    """A store, and what it holds as (newest seq by alert id, seqs of the events of one alert)."""

    store: AlertStore

    async def newest(self) -> dict[str, int]: ...

    async def events(self, alert_id: str) -> list[int]: ...


class InMemory:
    def __init__(self) -> None:
        self.store = MemoryAlertStore()

    async def newest(self) -> dict[str, int]:
        return {kept.alert_id: kept.seq for kept in await self.store.alerts()}

    async def events(self, alert_id: str) -> list[int]:
        return [kept.seq for kept in await self.store.events(alert_id)]


class InElasticsearch:
    def __init__(self, settings: ElasticsearchSettings) -> None:
        self.store = ElasticsearchAlertStore(settings)
        self.history = AlertHistory(settings)

    async def newest(self) -> dict[str, int]:
        await self.history.refresh()
        return {found["event"]["id"]: found["event"]["sequence"] for found in await self.history.find(limit=1000)}

    async def events(self, alert_id: str) -> list[int]:
        await self.history.refresh()
        shown = await self.history.show(alert_id)
        return [] if shown is None else [event["event"]["sequence"] for event in shown.events]


@pytest.fixture(params=["memory", pytest.param("elasticsearch", marks=pytest.mark.elasticsearch)])
async def kept(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    if request.param == "memory":
        yield InMemory()
        return
    url = request.getfixturevalue("elasticsearch_url")
    settings = ElasticsearchSettings(url=url, index_prefix=f"contract-{uuid.uuid4().hex[:8]}")
    held = InElasticsearch(settings)
    await held.store.install_templates()
    yield held
    await held.history.close()
    await held.store.close()


async def test_the_newest_state_and_every_transition_are_kept(kept: Kept) -> None:
    opened, fired, resolved = life()
    await kept.store.write([opened])
    await kept.store.write([fired, resolved])
    assert await kept.newest() == {fired.alert_id: 3}
    assert await kept.events(fired.alert_id) == [1, 2, 3]


async def test_writing_again_changes_nothing(kept: Kept) -> None:
    transitions = life()
    for _ in range(3):
        await kept.store.write(transitions)
    assert await kept.newest() == {transitions[0].alert_id: 3}
    assert await kept.events(transitions[0].alert_id) == [1, 2, 3]


async def test_an_older_state_never_replaces_a_newer_one(kept: Kept) -> None:
    opened, fired, resolved = life()
    await kept.store.write([resolved])
    await kept.store.write([opened, fired])
    assert await kept.newest() == {fired.alert_id: 3}
    assert await kept.events(fired.alert_id) == [1, 2, 3]


async def test_any_order_ends_the_same(kept: Kept) -> None:
    transitions = [transition for n in range(20) for transition in life(f"host-{n}")]
    random.Random(7).shuffle(transitions)
    await kept.store.write(transitions)
    assert await kept.newest() == {transition.alert_id: 3 for transition in transitions}


async def test_nothing_to_write_is_fine(kept: Kept) -> None:
    await kept.store.write([])
    assert await kept.newest() == {}


async def test_strange_words_survive(kept: Kept) -> None:
    strange = alert('db "7"\n<b>§\U0001f600', labels={"a.b": "1", "a": "2", "": "x" * 5000})
    await kept.store.write([strange])
    assert await kept.newest() == {strange.alert_id: 2}
