"""Who is told what, and when, with a clock in the test's hand."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.alerts.control.matchers import matches
from service.alerts.notify.grouping import Entry, Group, Notification, Notified, absorb, change_of, settled
from service.alerts.notify.routing import Policy, group_labels, matching
from service.alerts.notify.timing import decide, notification
from service.domain import Alert, Severity, Status
from service.settings import NotificationSettings, RouteSettings
from tests.alerts.makers import alert, life

POLICY = Policy(group_wait=5_000, group_interval=60_000, repeat_interval=3_600_000)
KNOWN = Notified(Status.FIRING, Severity.CRITICAL)


def not_muted(_alert: Alert) -> str | None:
    return None


class Receiver:
    """Plays one group through time: transitions at moments in, messages out."""

    def __init__(self, policy: Policy = POLICY) -> None:
        self.policy = policy
        self.group = Group(receiver="r", route="{}", labels={}, opened_at=0)
        self.messages: list[tuple[int, Notification]] = []

    def take(self, now: int, *alerts: Alert) -> None:
        self.group = absorb(self.group, [(each, 0) for each in alerts], now, self.policy)

    def run(self, start: int, end: int, step: int = 1000) -> None:
        for now in range(start, end, step):
            decision = decide(self.group, now, self.policy, not_muted)
            if decision.send:
                message = notification(self.group, decision.reason, self.policy, not_muted)
                self.messages.append((now, message))
                self.group = settled(self.group, message, now, self.policy)

    @property
    def told(self) -> list[tuple[int, str, int]]:
        return [(at // 1000, message.reason, len(message.entries)) for at, message in self.messages]


@pytest.mark.parametrize(
    ("status", "severity", "told", "why"),
    [
        (Status.PENDING, Severity.CRITICAL, None, None),
        (Status.FIRING, Severity.CRITICAL, None, "fired"),
        (Status.FIRING, Severity.INFO, None, None),  # below the receiver's severity
        (Status.FIRING, Severity.CRITICAL, Notified(Status.FIRING, Severity.WARNING), "raised"),
        (Status.FIRING, Severity.CRITICAL, KNOWN, None),
        (Status.FIRING, Severity.WARNING, KNOWN, None),  # lowered is no news
        (Status.RESOLVED, Severity.CRITICAL, KNOWN, "resolved"),
        (Status.RESOLVED, Severity.CRITICAL, None, "fired and already over"),
        (Status.RESOLVED, Severity.CRITICAL, Notified(Status.RESOLVED, Severity.CRITICAL), None),
    ],
)
def test_what_is_change_of(status: Status, severity: Severity, told: Notified | None, why: str | None) -> None:
    policy = msgspec.structs.replace(POLICY, min_severity=Severity.WARNING)
    assert change_of(Entry(alert=alert(status=status, severity=severity), notified=told), policy) == why


def test_a_pending_alert_that_never_fired_is_never_told() -> None:
    quiet = alert(status=Status.RESOLVED, fired_at=None)
    assert change_of(Entry(alert=quiet), POLICY) is None


def test_resolved_is_not_told_where_it_is_not_wanted() -> None:
    policy = msgspec.structs.replace(POLICY, send_resolved=False)
    assert change_of(Entry(alert=alert(status=Status.RESOLVED), notified=KNOWN), policy) is None


def test_fifty_hosts_make_one_message_and_their_end_another() -> None:
    group = Receiver()
    group.take(0, *[alert(f"host-{n}", severity=Severity.WARNING) for n in range(30)])
    group.take(3000, *[alert(f"host-{n}", severity=Severity.WARNING) for n in range(30, 50)])
    group.run(0, 60_000)
    assert group.told == [(5, "fired", 50)]
    group.take(60_000, *[alert(f"host-{n}", severity=Severity.WARNING, status=Status.RESOLVED, seq=3) for n in range(50)])
    group.run(60_000, 300_000)
    assert group.told == [(5, "fired", 50), (65, "resolved", 50)]
    assert group.group.entries == {}


def test_new_warnings_wait_for_the_interval_and_new_criticals_do_not() -> None:
    group = Receiver()
    group.take(0, alert("a", severity=Severity.WARNING))
    group.run(0, 10_000)
    group.take(10_000, alert("b", severity=Severity.WARNING))
    group.run(10_000, 20_000)
    group.take(20_000, alert("c", severity=Severity.CRITICAL))
    group.run(20_000, 200_000)
    assert group.told == [(5, "fired", 1), (25, "fired", 3)]


def test_a_clock_that_is_set_back_makes_nobody_wait() -> None:
    group = Receiver()
    group.group = msgspec.structs.replace(group.group, opened_at=3_600_000)  # by a clock an hour ahead
    group.take(3_600_000, alert("a"))
    group.run(0, 10_000)
    assert group.told == [(0, "fired", 1)]
    group.take(10_000, alert("a", seq=3, status=Status.RESOLVED))
    group.run(10_000, 200_000)
    assert [(at, reason) for at, reason, _ in group.told] == [(0, "fired"), (60, "resolved")]


def test_a_storm_of_critical_alerts_makes_a_handful_of_messages_and_a_later_one_hurries_again() -> None:
    group = Receiver()
    for second in range(240):
        group.take(second * 1000, *[alert(f"host-{second}-{n}") for n in range(40)])
        group.run(second * 1000, second * 1000 + 1000)
    group.run(240_000, 600_000)
    assert [at for at, _, _ in group.told] == [5, 11, 22, 43, 84, 145, 206, 267]
    assert sum(len([e for e in message.entries if e.notified is None]) for _, message in group.messages) == 240 * 40
    group.take(600_000, alert("late"))
    group.run(600_000, 700_000)
    assert [at for at, _, _ in group.told][8:] == [605]


def test_no_two_reminders_share_a_key_although_others_came_and_went_between() -> None:
    group = Receiver()
    group.take(0, alert("a", severity=Severity.WARNING))
    group.run(0, 4_000_000)
    group.take(4_000_000, alert("b", severity=Severity.WARNING))
    group.take(4_100_000, alert("b", severity=Severity.WARNING, status=Status.RESOLVED, seq=3))
    group.run(4_100_000, 9_000_000)
    assert [why for _, why, _ in group.told].count("still firing") >= 2
    assert len({message.key for _, message in group.messages}) == len(group.messages)


def test_a_standing_alert_is_repeated_until_acknowledged() -> None:
    group = Receiver()
    group.take(0, alert())
    group.run(0, 8_000_000)
    assert group.told == [(5, "fired", 1), (3605, "still firing", 1), (7205, "still firing", 1)]
    assert len({message.key for _, message in group.messages}) == 3  # a repeat is another message, not a double
    group.take(8_000_000, alert(seq=3, action="acknowledged", acknowledged_by="Ada"))
    group.run(8_000_000, 20_000_000)
    assert len(group.messages) == 3


def test_what_is_muted_is_not_told_until_it_no_longer_is() -> None:
    group = absorb(Group(receiver="r", route="{}", labels={}, opened_at=0), [(alert(), 0)], 0, POLICY)
    assert decide(group, 10_000, POLICY, lambda _: "silence 7").reason == "everything new is muted"
    assert decide(group, 10_000, POLICY, not_muted).send


def test_news_that_comes_in_while_a_message_is_on_its_way_stays_change_of() -> None:
    opened, fired, resolved = life()
    group = absorb(Group(receiver="r", route="{}", labels={}, opened_at=0), [(opened, 0), (fired, 1)], 0, POLICY)
    message = notification(group, "fired", POLICY, not_muted)
    group = absorb(group, [(resolved, 2)], 6000, POLICY)
    group = settled(group, message, 7000, POLICY)
    decision = decide(group, 67_000, POLICY, not_muted)
    assert (decision.send, decision.reason) == (True, "resolved")


def test_the_same_news_found_again_has_the_same_key() -> None:
    def key(alerts: list[Alert], now: int) -> str:
        group = absorb(Group(receiver="r", route="{}", labels={}, opened_at=now), [(each, 0) for each in alerts], now, POLICY)
        return notification(group, "fired", POLICY, not_muted).key

    opened, fired, _ = life()
    updated = msgspec.structs.replace(fired, seq=3, action="updated")
    assert key([opened, fired], 0) == key([opened, fired], 999_000) == key([fired, updated], 5)


@pytest.mark.parametrize(
    ("match", "holds"),
    [
        ({}, True),
        ({"entity": "db-*"}, True),
        ({"entity": "!db-*"}, False),
        ({"severity": "critical", "rack": "7"}, True),
        ({"rack": "8"}, False),
        ({"absent": ""}, True),
        ({"absent": "?*"}, False),
        ({"model": "hosts"}, True),
    ],
)
def test_matching(match: dict[str, str], holds: bool) -> None:
    assert matches(alert("db-7", labels={"rack": "7"}), match) is holds


def test_the_first_route_wins_unless_it_goes_on() -> None:
    routes = [
        RouteSettings(match={"severity": "critical"}, receivers=["pager"], continue_matching=True),
        RouteSettings(match={"entity": "db-*"}, receivers=["dba", "pager"]),
        RouteSettings(receivers=["everyone"]),
    ]
    assert matching(alert("db-7"), routes) == {"pager": 0, "dba": 1}
    assert matching(alert("db-7", severity=Severity.INFO), routes) == {"dba": 1, "pager": 1}
    assert matching(alert("web-1", severity=Severity.INFO), routes) == {"everyone": 2}
    assert matching(alert("web-1"), routes[1:2]) == {}


def test_groups_follow_entity_model_and_labels() -> None:
    found = group_labels(alert("db-7", labels={"rack": "7"}), ["rack", "model", "severity", "absent"])
    assert found == {"rack": "7", "model": "hosts", "severity": "critical", "absent": ""}


def test_a_route_to_nobody_is_a_clear_mistake() -> None:
    with pytest.raises(ValueError, match="there is no receiver named 'ghost'"):
        NotificationSettings(routes=[RouteSettings(receivers=["ghost"])])


MOMENTS = st.lists(st.tuples(st.integers(0, 399), st.sampled_from("abc"), st.sampled_from("wcr")), max_size=25)


@settings(max_examples=40, deadline=None)
@given(MOMENTS)
def test_everybody_who_fired_is_told_once_and_no_interval_is_broken(moments: list[tuple[int, str, str]]) -> None:
    group, seqs, fired = Receiver(), {"a": 1, "b": 1, "c": 1}, set()
    events: dict[int, list[Alert]] = {}
    for second, entity, mark in sorted(moments, key=lambda each: each[0]):
        seqs[entity] += 1
        status = Status.RESOLVED if mark == "r" else Status.FIRING
        if entity in fired or status is Status.FIRING:
            fired.add(entity)
            severity = Severity.CRITICAL if mark == "c" else Severity.WARNING
            events.setdefault(second, []).append(alert(entity, status=status, severity=severity, seq=seqs[entity]))
    for second in range(400):
        group.take(second * 1000, *events.get(second, []))
        group.run(second * 1000, second * 1000 + 1000)
    group.run(400_000, 600_000)
    told = {entry.alert.entity for _, message in group.messages for entry in message.entries}
    assert told == fired
    keys = [message.key for _, message in group.messages]
    assert len(keys) == len(set(keys))
    gaps = [b - a for (a, _), (b, _) in zip(group.messages, group.messages[1:], strict=False)]
    assert all(gap >= POLICY.group_wait for gap in gaps)
    assert all(change_of(entry, POLICY) is None for entry in group.group.entries.values())
