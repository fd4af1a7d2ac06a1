"""An alert may change its route or group while it fires: a receiver notified of it as firing is notified that it resolved, or of
nothing more, and of nothing after that."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain import Severity, Status
from service.settings import RouteSettings
from tests.alerts.notify.simulation import REPEAT_SECONDS, Simulation, routes

CRITICAL = ({"severity": "critical"}, ["a", "b"], ["rack"])
BY_RACK = routes(CRITICAL, ({}, ["a"], ["rack"]))
INSERTED = routes(({"entity": "db-*"}, ["a"], []), CRITICAL, ({}, ["a"], ["rack"]))
FIRING, RESOLVED = Status.FIRING, Status.RESOLVED


async def test_severity_rises_into_another_route() -> None:
    world = Simulation(BY_RACK)
    await world.start()
    await world.change("db-1")
    await world.after(60)
    await world.change("db-1", severity=Severity.CRITICAL, action="raised")
    await world.after(120)
    await world.resolve_all()
    await world.after(4 * REPEAT_SECONDS)
    await world.stop()
    assert world.inboxes["a"].statuses["db-1"] == [FIRING, FIRING, RESOLVED]
    assert world.inboxes["b"].statuses["db-1"] == [FIRING, RESOLVED]


async def test_a_label_changes_that_alerts_are_grouped_by() -> None:
    world = Simulation(BY_RACK)
    await world.start()
    await world.change("db-1")
    await world.after(60)
    await world.change("db-1", labels={"rack": "2"}, action="updated")
    await world.after(120)
    await world.resolve_all()
    await world.after(4 * REPEAT_SECONDS)
    await world.stop()
    assert world.inboxes["a"].statuses["db-1"] == [FIRING, RESOLVED]


@pytest.mark.parametrize("updated", [False, True])
async def test_a_route_is_inserted_on_top(updated: bool) -> None:
    world = Simulation(BY_RACK)
    await world.start()
    await world.change("db-1")
    await world.after(60)
    await world.restart(INSERTED)
    if updated:
        await world.change("db-1", action="updated")
    await world.resolve_all()
    await world.after(4 * REPEAT_SECONDS)
    await world.stop()
    assert world.inboxes["a"].statuses["db-1"] == [FIRING, RESOLVED]


@pytest.mark.parametrize("restarted", [False, True])
async def test_where_no_route_leads_any_more_only_the_end_is_sent(restarted: bool) -> None:
    first = routes(({"severity": "critical"}, ["b"], []), ({}, ["a"], []))
    world = Simulation(first)
    await world.start()
    await world.change("db-1")
    await world.change("db-2")
    await world.after(60)
    if restarted:
        await world.restart(routes(({"entity": "db-1"}, ["b"], []), ({}, ["a"], [])))
    await world.change("db-1", severity=Severity.CRITICAL, action="raised")
    await world.change("db-2", status=RESOLVED, action="resolved")
    await world.after(3 * REPEAT_SECONDS)
    a = world.inboxes["a"]
    assert [entities for _, _, entities in a.messages] == [["db-1", "db-2"], ["db-2"]]
    assert a.statuses["db-1"] == [FIRING]
    assert len(world.inboxes["b"].messages) > 1  # it is reminded
    await world.resolve_all()
    await world.after(120)
    await world.stop()
    assert a.statuses["db-1"] == [FIRING, RESOLVED]


@pytest.mark.parametrize("rules", [routes(({"entity": "web-*"}, ["a"], [])), routes(({}, ["b"], []))])
async def test_a_route_that_is_gone_reminds_nobody(rules: list[RouteSettings]) -> None:
    world = Simulation(BY_RACK)
    await world.start()
    await world.change("db-1")
    await world.after(60)
    await world.restart(rules)
    await world.after(20_000, step=400)
    assert len(world.inboxes["a"].messages) == 1
    await world.resolve_all()
    await world.after(120)
    await world.stop()
    assert world.inboxes["a"].statuses["db-1"] == [FIRING, RESOLVED]
    assert not world.records


async def test_a_receiver_that_is_gone_leaves_nothing_behind() -> None:
    world = Simulation(BY_RACK)
    await world.start()
    await world.change("db-1", severity=Severity.CRITICAL)
    world.inboxes["b"].refusing = {"db-1"}
    await world.after(60)
    b = world.inboxes.pop("b")
    await world.restart(routes(({}, ["a"], ["rack"])))
    assert world.outcomes[("b", "due")] == world.outcomes[("b", "handed_over")] + world.outcomes[("b", "gave_up")] == 2
    await world.resolve_all()
    await world.after(120)
    await world.stop()
    assert not world.records
    assert b.messages == []


ROUTES = [
    BY_RACK,
    INSERTED,
    routes(({}, ["a", "b"], ["severity"])),
    routes(({"severity": "critical"}, ["b"], [])),
    routes(({"rack": "2"}, ["b"], []), ({}, ["a"], ["entity"])),
]
NAMES = ["db-1", "db-2", "web-1"]
ENTITIES = st.sampled_from(NAMES)
WHICH_ROUTES = st.integers(0, len(ROUTES) - 1)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("raised"), ENTITIES),
        st.tuples(st.just("rack"), ENTITIES, st.sampled_from("12")),
        st.tuples(st.just("resolved"), ENTITIES),
        st.tuples(st.just("after"), st.sampled_from([2, 30, 120, 900])),
        st.tuples(st.just("restart"), WHICH_ROUTES),
        st.tuples(st.just("kill"), st.none()),
        st.tuples(st.just("refuses"), ENTITIES),
        st.tuples(st.just("takes"), ENTITIES),
    ),
    min_size=4,
    max_size=20,
)


async def play(first: int, waits: int, steps: list[tuple[object, ...]]) -> None:
    world = Simulation(ROUTES[first], deadline=1e9)
    await world.start()
    for name in NAMES:
        await world.change(name)
    await world.after(waits, step=30)
    for step in steps:
        match step:
            case ["kill", None]:
                world.kill_next = True
            case ["refuses", str(entity)]:
                for inbox in world.inboxes.values():
                    inbox.refusing.add(entity)
            case ["takes", str(entity)]:
                for inbox in world.inboxes.values():
                    inbox.refusing.discard(entity)
            case ["after", int(seconds)]:
                await world.after(seconds, step=min(seconds, 30))
            case ["restart", int(number)]:
                await world.restart(ROUTES[number])
            case [str(what), str(entity), *rest]:
                if world.alerts[entity].status is RESOLVED:
                    continue
                if what == "raised":
                    await world.change(entity, severity=Severity.CRITICAL, action="raised")
                elif what == "rack":
                    await world.change(entity, labels={"rack": str(rest[0])}, action="updated")
                elif what == "resolved":
                    await world.change(entity, status=RESOLVED, action="resolved")
        assert all(world.adds_up(name) for name in world.inboxes)
    for inbox in world.inboxes.values():
        inbox.refusing.clear()
    await world.resolve_all()
    await world.after(2 * REPEAT_SECONDS, step=60)
    sent = {name: len(inbox.messages) for name, inbox in world.inboxes.items()}
    await world.after(4 * REPEAT_SECONDS, step=300)
    await world.restart()
    await world.after(REPEAT_SECONDS * 2, step=300)
    await world.stop()
    for name, inbox in world.inboxes.items():
        assert len(inbox.messages) == sent[name]  # no reminder of what is over
        for statuses in inbox.statuses.values():
            assert statuses[-1] is RESOLVED
            assert statuses.count(RESOLVED) == 1
        assert world.service.unsettled(name) == 0
    assert sum(inbox.doubled for inbox in world.inboxes.values()) <= world.kills
    assert not world.records  # nothing is held of what is over


@settings(max_examples=150, deadline=None)
@given(WHICH_ROUTES, st.sampled_from([0, 30]), STEPS)
def test_whatever_changes_nothing_that_is_over_is_left_firing(first: int, waits: int, steps: list[tuple[object, ...]]) -> None:
    asyncio.run(play(first, waits, steps))
