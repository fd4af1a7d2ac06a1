"""How messages fared: what is recorded, what becomes a document, and what `tidewatch alerts show` reads back."""

from __future__ import annotations

import uuid

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.alerts.history.delivery_documents import delivery_document, version
from service.alerts.history.elasticsearch import ElasticsearchAlertStore
from service.alerts.history.reader import AlertHistory
from service.alerts.notify.journal import Journal
from service.alerts.topics.deliveries import Delivery, DeliveryState, decode, encode
from service.commands.alerts import notifications_table
from service.errors import InvalidMessage
from service.settings import ElasticsearchSettings, NotificationSettings
from tests.alerts.makers import BORN, alert, life
from tests.alerts.notify.test_dispatcher import give, service, slack
from tests.alerts.servers import DROP, Behaviour, http_receiver

OWED = Delivery(
    key="k1",
    receiver="slack",
    state="owed",
    reason="fired",
    labels={"rack": "7"},
    alert_ids=["a1"],
    owed_at=BORN * 1000,
    at=BORN * 1000,
)


def then(state: DeliveryState, attempts: int, seconds: int) -> Delivery:
    return msgspec.structs.replace(
        OWED, state=state, attempts=attempts, at=OWED.at + seconds * 1000, problem="slack: x answered 500."
    )


def test_a_delivery_survives_the_topic_and_other_bytes_are_refused() -> None:
    assert decode(encode(then("gave_up", 3, 60))) == then("gave_up", 3, 60)
    for bad in (None, b"", b"{}", b"\xff", b'{"key": 1}'):
        with pytest.raises(InvalidMessage):
            decode(bad)


STATES: list[DeliveryState] = ["owed", "sent", "refused", "gave_up"]


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from(STATES), st.integers(0, 10**10)), min_size=2))
def test_a_settled_message_outranks_every_try_and_more_tries_outrank_fewer(seen: list[tuple[DeliveryState, int]]) -> None:
    told = [then(state, attempts, 1) for state, attempts in seen]
    best = max(told, key=version)
    assert (best.state == "owed") is all(each.state == "owed" for each in told)
    if best.state == "owed" and best.attempts < 10**9:
        assert best.attempts == max(each.attempts for each in told)


@pytest.mark.parametrize(
    ("delivery", "outcome", "words"),
    [
        (OWED, "unknown", "slack is still to be notified of 1 alert (fired)."),
        (then("owed", 2, 9), "unknown", "slack is still to be notified of 1 alert (fired); 2 tries failed."),
        (then("sent", 1, 9), "success", "slack was notified of 1 alert (fired) after 1 try."),
        (then("refused", 1, 9), "failure", "slack refused the message about 1 alert (fired)."),
        (then("gave_up", 40, 9), "failure", "slack was not notified of 1 alert (fired): given up after 40 tries."),
    ],
)
def test_the_document_says_how_it_stands(delivery: Delivery, outcome: str, words: str) -> None:
    made = delivery_document(delivery)
    assert (made["message"], made["event"]["outcome"]) == (words, outcome)
    assert made["@timestamp"] == "2025-11-22T00:00:00.000Z"
    assert made["event"].get("duration") == (None if delivery.state == "owed" else 9_000_000_000)


def recorded(into: list[Delivery]) -> Journal:
    journal = Journal()

    async def record() -> bool:
        into.extend(journal.take_changes().deliveries)
        return True

    journal.record_with(record)
    return journal


async def test_every_step_of_a_message_is_told_without_the_address() -> None:
    seen: list[Delivery] = []
    async with http_receiver(Behaviour(500), DROP, Behaviour(429, {"retry-after": "0.1"})) as server:
        told = NotificationSettings(receivers=[slack(server)])
        async with service(told, recorded(seen)) as (sending, _):
            give(sending, life()[:2])
            assert await sending.drained(30)
    assert seen[0].state == "owed"
    assert seen[0].attempts == 0
    last = seen[-1]
    assert (last.state, last.attempts, last.receiver) == ("sent", 4, "slack")
    assert last.problem is not None
    assert "429" in last.problem
    assert len({each.key for each in seen}) == len({each.owed_at for each in seen}) == 1
    assert b"s3cret" not in b"".join(map(encode, seen))


@pytest.mark.parametrize(
    ("answer", "deadline", "state", "least"), [(Behaviour(410), 60, "refused", 1), (Behaviour(500), 0.3, "gave_up", 2)]
)
async def test_what_was_not_told_is_told_so(answer: Behaviour, deadline: float, state: str, least: int) -> None:
    seen: list[Delivery] = []
    async with http_receiver(otherwise=answer) as server:
        told = NotificationSettings(receivers=[slack(server)], deadline_seconds=deadline)
        async with service(told, recorded(seen)) as (sending, _):
            give(sending, life()[:2])
            assert await sending.drained(30)
    assert seen[-1].state == state
    assert seen[-1].attempts >= least
    assert str(answer.status) in (seen[-1].problem or "")


@pytest.mark.elasticsearch
async def test_the_newest_state_is_kept_and_shown_with_its_alert(elasticsearch_url: str) -> None:
    told = ElasticsearchSettings(url=elasticsearch_url, index_prefix=f"deliveries-{uuid.uuid4().hex[:8]}")
    store, history = ElasticsearchAlertStore(told), AlertHistory(told)
    await store.install_templates()
    one, other = alert("db-1"), alert("db-2")
    about = [one.alert_id, other.alert_id]
    await store.write([one, other, *life("db-3")])
    first = msgspec.structs.replace(then("sent", 3, 20), alert_ids=about)
    later = msgspec.structs.replace(OWED, key="k2", owed_at=OWED.owed_at + 60_000, alert_ids=about[:1], reason="still firing")
    await store.write_deliveries([first, later])
    await store.write_deliveries([msgspec.structs.replace(OWED, alert_ids=about), later])  # read again after a restart
    await history.refresh()
    try:
        shown = await history.show(one.alert_id)
        assert shown is not None
        assert [(each["tidewatch"]["state"], each["tidewatch"]["alerts"]) for each in shown.notifications] == [
            ("sent", 2),
            ("owed", 1),
        ]
        assert [each["event"]["reason"] for each in shown.notifications] == ["fired", "still firing"]
        assert "alert_id" not in shown.notifications[0]["tidewatch"]
        assert notifications_table(shown.notifications).row_count == 2
        shown = await history.show(other.alert_id)
        assert shown is not None
        assert len(shown.notifications) == 1
        shown = await history.show(life("db-3")[0].alert_id)
        assert shown is not None
        assert shown.notifications == []
    finally:
        await history.close()
        await store.close()
