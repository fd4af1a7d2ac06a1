"""Groups that a version before 0.1.0 recorded, whose key held the number of their route: what they owe is still sent."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import msgspec
import pytest

from service.alerts.notify.group_records import groups_of
from service.domain import Severity, Status
from service.settings import RouteSettings
from tests.alerts.makers import alert
from tests.alerts.notify.simulation import REPEAT_SECONDS, Simulation, routes

WRITTEN = json.loads((Path(__file__).parent / "written_before_the_moves.json").read_text())["groups"]
RECORDS = {key.encode(): base64.b64decode(value) for key, value in WRITTEN.items()}
PENDING_KEY = "07b9f426ae06136c83bab6e0a704c7b9"
SAME = routes(({"rack": "7"}, ["slack"], ["rack"]), ({}, ["mail", "slack"], []))
OTHER = routes(({"severity": "critical"}, ["slack", "mail"], ["entity"]))
NOBODY = routes(({"entity": "web-*"}, ["slack", "mail"], []))
FIRING, RESOLVED = Status.FIRING, Status.RESOLVED


def test_every_field_is_read() -> None:
    slack, mail = (groups_of(RECORDS)[key] for key in ('["slack",0,{"rack":"7"}]', '["mail",1,{}]'))
    assert (slack.labels, slack.last_sent_at, slack.messages, slack.pending) == ({"rack": "7"}, 6000, 1, None)
    entries = {entry.alert.entity: entry for entry in slack.entries.values()}
    assert entries.keys() == {"db-7", "db-8"}
    told = entries["db-7"].notified
    assert told is not None
    assert (told.status, told.severity) == (FIRING, Severity.CRITICAL)
    assert (entries["db-8"].change_seq, entries["db-8"].changed_at, entries["db-8"].offset) == (2, 7000, 4)
    assert mail.pending is not None
    assert (mail.pending.key, mail.pending.due_at, mail.pending.attempts) == (PENDING_KEY, 6000, 2)
    assert mail.pending.problem == "mail: no answer within 10 s."
    assert [(each.entity, each.status) for each in mail.pending.alerts] == [("db-7", FIRING)]
    held = {entry.alert.entity: (entry.alert.status, entry.muted) for entry in mail.entries.values()}
    assert held == {"db-7": (RESOLVED, False), "db-9": (FIRING, True)}


@pytest.mark.parametrize("rules", [SAME, OTHER, NOBODY])
async def test_what_was_pending_is_sent_under_its_key_and_nothing_is_reminded_for_ever(rules: list[RouteSettings]) -> None:
    world = Simulation(rules, receivers=("slack", "mail"))
    world.records = dict(RECORDS)
    await world.start()
    mail, slack = world.inboxes["mail"], world.inboxes["slack"]
    assert mail.messages[0][1:] == (PENDING_KEY, ["db-7"])
    await world.after(3 * REPEAT_SECONDS)
    assert mail.statuses["db-7"] == [FIRING, RESOLVED]
    assert slack.statuses["db-7"] == []  # notified before the restart; whether it still fires is not known
    world.alerts = {name: alert(name) for name in ("db-7", "db-8", "db-9")}
    await world.resolve_all()
    await world.after(3 * REPEAT_SECONDS)
    assert slack.statuses["db-7"] == [RESOLVED]
    for inbox in (slack, mail):
        for statuses in inbox.statuses.values():
            assert statuses[-1] is RESOLVED
    await world.stop()
    assert not world.records


async def test_an_alert_left_behind_by_the_old_version_is_not_reminded_of_and_its_twin_goes_on() -> None:
    """The old version kept the alert in the group of its first route, firing, and in that of its second."""
    world = Simulation(routes(({"severity": "critical"}, ["slack"], []), ({}, ["slack"], ["rack"])), receivers=("slack",))
    group, alert_id = '["slack",0,{"rack":"7"}]', alert("db-7").alert_id
    head = msgspec.msgpack.decode(RECORDS[msgspec.json.encode([group])])
    for number, labels in ((0, {}), (1, {"rack": ""})):
        key = msgspec.json.encode(["slack", number, labels]).decode()
        world.records[msgspec.json.encode([key])] = msgspec.msgpack.encode(head | {"route": number, "labels": labels})
        world.records[msgspec.json.encode([key, alert_id])] = RECORDS[msgspec.json.encode([group, alert_id])]
    await world.start()
    await world.after(3 * REPEAT_SECONDS)
    assert world.inboxes["slack"].messages == []
    world.alerts["db-7"] = alert("db-7")
    await world.change("db-7", action="updated")
    await world.after(REPEAT_SECONDS // 2)
    assert world.inboxes["slack"].statuses["db-7"] == [FIRING]  # reminded of again, now that it is known to fire
    await world.resolve_all()
    await world.after(3 * REPEAT_SECONDS)
    assert world.inboxes["slack"].statuses["db-7"] == [FIRING, RESOLVED]
    await world.stop()
    assert not world.records
