"""A message that a receiver does not take is tried again beside the others: only its own group waits for it."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from service.alerts.notify.dispatcher import NotificationService
from service.alerts.notify.journal import Journal
from service.alerts.notify.retries import Retries, Tries
from service.alerts.receivers.webhook import WebhookNotifier
from service.clock import SystemClock
from service.domain import Severity, Status
from service.settings import NotificationSettings, RouteSettings, WebhookReceiver
from tests.alerts.makers import alert
from tests.alerts.notify.simulation import Simulation, routes
from tests.alerts.servers import HANG, Behaviour, http_receiver

EACH_ALONE = routes(({}, ["a"], ["entity"]))
FIRING, RESOLVED = Status.FIRING, Status.RESOLVED


@pytest.mark.parametrize("behaviour", [Behaviour(503), HANG])
async def test_one_message_that_is_not_taken_holds_back_no_other_group(behaviour: Behaviour) -> None:
    outcomes: Counter[str] = Counter()
    async with http_receiver() as server:
        server.by_body[b'"entity":"poison"'] = behaviour
        receiver = WebhookReceiver(name="hook", url=SecretStr(server.url), allow_http=True)
        route = RouteSettings(receivers=["hook"], group_by=["entity"], group_wait_seconds=0)
        sending = NotificationService(
            NotificationSettings(receivers=[receiver], routes=[route], attempt_timeout_seconds=0.2),
            {"hook": WebhookNotifier(receiver)},
            journal=Journal(),
            clock=SystemClock(),
            on_outcome=lambda _, outcome: outcomes.update([outcome]),
            retry_wait=(0.05, 0.1),
        )
        await sending.start()
        sending.accept([(alert("poison"), -1)])
        sending.accept([(alert(f"db-{n}"), -1) for n in range(3)])
        async with asyncio.timeout(30):
            while outcomes["sent"] < 3 or outcomes["retried"] < 2:
                await asyncio.sleep(0.02)
        assert sending.unsettled("hook") == 1
        server.by_body.clear()
        server.release()
        assert await sending.drained(30)
        await sending.close()
    assert outcomes["due"] == outcomes["sent"] == 4
    keys = [request.headers["idempotency-key"] for request in server.requests if b'"entity":"poison"' in request.body]
    assert len(keys) > 2
    assert len(set(keys)) == 1


async def test_tries_wait_longer_each_time_and_end_at_the_deadline() -> None:
    world = Simulation(EACH_ALONE, receivers=("a",), deadline=300)
    await world.start()
    inbox = world.inboxes["a"]
    inbox.refusing = {"db-1"}
    await world.change("db-1")
    await world.change("db-2")
    await world.after(400, step=1)
    assert [entities for _, _, entities in inbox.messages] == [["db-2"]]
    times = [at for at, entities in inbox.tried if entities == ["db-1"]]
    gaps = [b - a for a, b in pairwise(times)]
    assert gaps[:3] != gaps[-3:]
    assert all(1 <= gap <= 22 for gap in gaps)
    assert times[-1] - times[0] >= 300 > times[-2] - times[0]
    assert world.outcomes[("a", "gave_up")] == 1
    assert world.outcomes[("a", "retried")] == len(times)
    await world.stop()


async def test_within_a_group_order_is_kept_and_a_restart_goes_on_with_the_same_message() -> None:
    world = Simulation(EACH_ALONE, receivers=("a",))
    await world.start()
    inbox = world.inboxes["a"]
    inbox.refusing = {"db-1"}
    await world.change("db-1")
    await world.change("db-2")
    await world.after(60, step=1)
    await world.resolve_all()
    await world.after(120, step=1)
    assert inbox.statuses == {"db-2": [FIRING, RESOLVED]}
    await world.restart()
    inbox.refusing = set()
    await world.after(180, step=1)
    assert inbox.statuses["db-1"] == [FIRING, RESOLVED]
    assert world.outcomes[("a", "due")] == 5  # four messages, one of them due in both processes
    assert world.outcomes[("a", "sent")] == 4
    assert world.outcomes[("a", "handed_over")] == 1
    await world.stop()


async def test_a_message_on_its_way_keeps_its_alert_from_moving_to_another_group() -> None:
    world = Simulation(routes(({"severity": "critical"}, ["a"], []), ({}, ["a"], ["entity"])), receivers=("a",))
    await world.start()
    inbox = world.inboxes["a"]
    inbox.refusing = {"db-1"}
    await world.change("db-1")
    await world.change("db-2", severity=Severity.CRITICAL)
    await world.after(30, step=1)
    await world.change("db-1", severity=Severity.CRITICAL, action="raised")
    await world.after(60, step=1)
    assert inbox.statuses == {"db-2": [FIRING]}
    inbox.refusing = set()
    await world.after(120, step=1)
    assert [entities for _, _, entities in inbox.messages] == [["db-2"], ["db-1"], ["db-1", "db-2"]]
    await world.stop()


async def test_a_receiver_that_names_a_time_is_left_alone_until_then() -> None:
    world = Simulation(EACH_ALONE, receivers=("a",))
    await world.start()
    inbox = world.inboxes["a"]
    inbox.refusing, inbox.retry_after = {"db-1"}, 100.0
    await world.change("db-1")
    await world.after(6, step=1)
    await world.change("db-2")
    await world.after(90, step=1)
    assert [entities for _, entities in inbox.tried] == [["db-1"]]
    await world.after(20, step=1)
    assert [entities for _, entities in inbox.tried][:2] == [["db-1"], ["db-2"]]  # what was never tried goes first
    await world.stop()


async def test_failed_messages_take_turns_at_a_receiver_that_names_a_time() -> None:
    world = Simulation(EACH_ALONE, receivers=("a",))
    await world.start()
    inbox = world.inboxes["a"]
    inbox.refusing, inbox.retry_after = {"db-1", "db-2", "db-3"}, 10.0
    for entity in ("db-1", "db-2", "db-3"):
        await world.change(entity)
    await world.after(200, step=1)
    order = [entity for _, (entity,) in inbox.tried]
    assert len(order) >= 9
    assert order == [["db-1", "db-2", "db-3"][n % 3] for n in range(len(order))]
    await world.stop()


@given(
    asked=st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True)),
    at=st.lists(st.floats(0.0, 200.0), min_size=1, max_size=20),
)
def test_whatever_a_receiver_asks_there_is_a_pause_and_the_deadline_holds(asked: float | None, at: list[float]) -> None:
    tries = Tries(deadline=100.0, first_wait=0.5, longest_wait=60.0)
    retries = Retries(tries)
    first = min(at)
    for now in sorted(at):
        wait = retries.failed("group", now, asked)
        if wait is None:
            assert now - first >= tries.deadline
            break
        assert 0.0 < wait <= tries.deadline - (now - first) + 1e-6
        assert wait >= min(tries.first_wait, tries.deadline - (now - first)) - 1e-6
