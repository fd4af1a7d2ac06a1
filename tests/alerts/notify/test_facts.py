"""What a message knows of the settings and of its receiver: links, time zone, what was sent before, what joined since."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service.alerts.control.commands import Control
from service.alerts.notify.earlier_alerts import EarlierAlerts
from service.alerts.notify.facts import Facts, links_of
from service.alerts.notify.grouping import Entry, Group, Notification, Notified, absorb, change_of, settled
from service.alerts.notify.routing import Policy
from service.alerts.notify.surroundings import OpenAlerts
from service.alerts.notify.timing import REMINDER
from service.clock import ManualClock
from service.domain import MetricShare, Severity, Status
from service.settings import LinkSettings, NotificationSettings
from tests.alerts.makers import BORN, alert
from tests.alerts.notify.test_grouping import POLICY

NOW = BORN * 1000
LINKS = [
    LinkSettings(match={"rack": "r1"}, runbook="https://wiki.example/r1", owner="rack team"),
    LinkSettings(match={"entity": "db-*"}, runbook="https://wiki.example/{role}?on={entity}&m={metric}#{alert_id}"),
    LinkSettings(owner="operations"),
]


def test_runbook_and_owner_come_each_from_the_first_link_that_has_one() -> None:
    runbook, owner = links_of(alert("db-7/ü&x", labels={"role": "a b"}), LINKS)
    assert runbook.startswith("https://wiki.example/a%20b?on=db-7%2F%C3%BC%26x&m=cpu_percent#")
    assert owner == "operations"
    assert links_of(alert("web-1", labels={"rack": "r1"}), LINKS) == ("https://wiki.example/r1", "rack team")
    assert links_of(alert("web-1"), LINKS) == ("", "operations")
    assert links_of(alert("db-1"), LINKS[:1]) == ("", "")


@given(st.text(), st.text())
def test_what_producers_send_stays_inside_its_place_in_the_url(entity: str, label: str) -> None:
    made, _ = links_of(alert("db-" + entity, labels={"role": label}), LINKS)
    assert set(made) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~%:/?=&#")
    assert made.count("?") == made.count("&") == made.count("#") == 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"time_zone": "Europe/Atlantis"}, "there is no time zone 'Europe/Atlantis' (use a name like Europe/Berlin)"),
        ({"time_zone": ""}, "there is no time zone ''"),
        ({"time_zone": "Europe"}, "there is no time zone 'Europe'"),
        ({"time_zone": "../etc/passwd"}, "there is no time zone"),
        ({"links": [{"match": {}}]}, "a link needs a runbook or an owner"),
        ({"links": [{"runbook": "javascript:alert(1)"}]}, "is no URL"),
        ({"links": [{"runbook": "https://x.example/{"}]}, "is no URL"),
        ({"units": [{"match": "*", "unit": ""}]}, "unit"),
    ],
)
def test_a_wrong_setting_is_said_in_one_sentence(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError) as raised:
        NotificationSettings.model_validate(wrong)
    (mistake,) = raised.value.errors(include_input=False)
    assert said in f"{mistake['loc']} {mistake['msg']}"


def message(*entries: Entry, reason: str = "fired") -> Notification:
    return Notification("key", "slack", {}, entries, reason, "k", due_at=NOW + 1)


def facts(**settings: object) -> Facts:
    given_settings = NotificationSettings.model_validate(settings)
    return Facts(given_settings, EarlierAlerts(None, Control(), clock=ManualClock(NOW)))


def test_a_message_knows_the_settings_and_what_its_receiver_was_sent() -> None:
    made = facts(time_zone="Europe/Berlin", links=[{"owner": "db team"}], units=[{"match": "net.*", "unit": "B/s"}])
    old = Entry(alert=alert("a", resolve_after_ms=300_000), notified=Notified(Status.FIRING, Severity.WARNING))
    new = Entry(alert=alert("b", acknowledged_by="Ada"))
    over = Entry(alert=alert("c", status=Status.RESOLVED), notified=Notified(Status.FIRING, Severity.CRITICAL))
    said = made.circumstances(message(old, new, over), POLICY)
    first, second, third = (said[each.alert.alert_id] for each in (old, new, over))
    assert (first.zone, first.owner, first.units, first.now_ms) == ("Europe/Berlin", "db team", (("net.*", "B/s"),), NOW + 1)
    assert (first.notified_severity, first.changed, first.is_reminder) == (Severity.WARNING, True, False)
    assert (first.repeat_after_s, first.resolve_after_s) == (POLICY.repeat_interval / 1000, 300.0)
    assert (second.notified_severity, second.changed, second.repeat_after_s) == (None, False, None)
    assert (third.repeat_after_s, third.resolve_after_s) == (None, None)
    assert made.circumstances(message(old, reason=REMINDER), POLICY)[old.alert.alert_id].is_reminder


def test_a_mistake_in_gathering_costs_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    made = facts()
    monkeypatch.setattr(OpenAlerts, "around", lambda *_: 1 / 0)
    monkeypatch.setattr(OpenAlerts, "observe", lambda *_: 1 / 0)
    monkeypatch.setattr("service.alerts.notify.facts.links_of", lambda *_: 1 / 0)
    made.observe(alert())
    assert made.found(message(Entry(alert=alert())), POLICY) == {}
    assert made.circumstances(message(Entry(alert=alert())), POLICY) == {}


def test_metrics_that_join_an_open_alert_are_told_once() -> None:
    policy: Policy = POLICY
    group = absorb(Group(receiver="slack", route="{}", labels={}, opened_at=0), [(alert(seq=2), 0)], 0, policy)
    group = settled(group, message(*group.entries.values()), 1000, policy)
    wider = alert(seq=3, action="widened", also=(MetricShare("db_conns", 0.4, 900.0, 40.0, 5.0, ()),))
    group = absorb(group, [(wider, 1)], 2000, policy)
    (entry,) = group.entries.values()
    assert change_of(entry, policy) == "widened"
    group = settled(group, message(entry), 3000, policy)
    group = absorb(group, [(msgspec.structs.replace(wider, seq=4, action="updated"), 2)], 4000, policy)
    assert [change_of(each, policy) for each in group.entries.values()] == [None]
