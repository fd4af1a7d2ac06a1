"""What every ``AlertStore`` promises, held against each of them."""

from __future__ import annotations

import random
import uuid
from collections.abc import AsyncIterator
from typing import Any, Protocol

import msgspec
import pytest

from service.alerts.control.commands import AddSilence, ExpireSilence
from service.alerts.history.base import AlertStore
from service.alerts.history.elasticsearch import ElasticsearchAlertStore
from service.alerts.history.elasticsearch_client import ElasticsearchClient
from service.alerts.history.reader import AlertHistory
from service.alerts.topics.deliveries import Delivery
from service.settings import ElasticsearchSettings
from tests.alerts.makers import BORN, alert, life
from tests.alerts.memory_store import MemoryAlertStore


class Kept(Protocol):
    """A store, and what it holds: newest seq by alert id, seqs of the events of one alert, ids of commands, states of messages."""

    store: AlertStore

    async def newest(self) -> dict[str, int]: ...

    async def events(self, alert_id: str) -> list[int]: ...

    async def commands(self) -> list[str]: ...

    async def messages(self) -> dict[str, str]: ...


class InMemory:
    def __init__(self) -> None:
        self.store = MemoryAlertStore()

    async def newest(self) -> dict[str, int]:
        return {kept.alert_id: kept.seq for kept in await self.store.alerts()}

    async def events(self, alert_id: str) -> list[int]:
        return [kept.seq for kept in await self.store.events(alert_id)]

    async def commands(self) -> list[str]:
        return sorted(self.store.commands)

    async def messages(self) -> dict[str, str]:
        return {key: kept.state for key, kept in self.store.deliveries.items()}


class InElasticsearch:
    def __init__(self, settings: ElasticsearchSettings) -> None:
        self.store = ElasticsearchAlertStore(settings)
        self.history = AlertHistory(settings)
        self.client = ElasticsearchClient(settings)
        self.prefix = settings.index_prefix

    async def newest(self) -> dict[str, int]:
        await self.history.refresh()
        return {found["event"]["id"]: found["event"]["sequence"] for found in await self.history.find(limit=1000)}

    async def events(self, alert_id: str) -> list[int]:
        await self.history.refresh()
        shown = await self.history.show(alert_id)
        return [] if shown is None else [event["event"]["sequence"] for event in shown.events]

    async def commands(self) -> list[str]:
        return sorted(found["event"]["id"] for found in await self._all("audit"))

    async def messages(self) -> dict[str, str]:
        return {found["event"]["id"]: found["tidewatch"]["state"] for found in await self._all("notifications")}

    async def _all(self, alias: str) -> list[dict[str, Any]]:
        await self.client.refresh([f"{self.prefix}-{alias}"])
        return [hit["_source"] for hit in await self.client.search(f"{self.prefix}-{alias}", {"match_all": {}}, size=100)]


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
    await held.client.close()
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


async def test_a_command_is_kept_once_however_often_it_is_written(kept: Kept) -> None:
    silence = AddSilence(id="s1", match={"rack": "7"}, starts_at=0, ends_at=BORN * 1000, author="Ada", at=BORN * 1000)
    await kept.store.write_commands([silence])
    await kept.store.write_commands([silence, ExpireSilence(id="e1", silence_id="s1", author="Bob", at=BORN * 1000 + 1)])
    assert await kept.commands() == ["e1", "s1"]


async def test_an_older_state_of_a_message_never_replaces_a_newer_one(kept: Kept) -> None:
    due = Delivery(
        key="k1",
        receiver="slack",
        state="owed",
        reason="fired",
        labels={},
        alert_ids=["a" * 32],
        owed_at=BORN * 1000,
        at=BORN * 1000,
    )
    sent = msgspec.structs.replace(due, state="sent", attempts=1)
    await kept.store.write_deliveries([due, msgspec.structs.replace(due, key="k2")])
    await kept.store.write_deliveries([sent])
    await kept.store.write_deliveries([due])
    assert await kept.messages() == {"k1": "sent", "k2": "owed"}


async def test_nothing_to_write_is_fine(kept: Kept) -> None:
    await kept.store.write([])
    await kept.store.write_commands([])
    await kept.store.write_deliveries([])
    assert await kept.newest() == {}


async def test_strange_words_survive(kept: Kept) -> None:
    strange = alert('db "7"\n<b>§\U0001f600', labels={"a.b": "1", "a": "2", "": "x" * 5000})
    await kept.store.write([strange])
    assert await kept.newest() == {strange.alert_id: 2}
