"""Silences, maintenance windows, inhibition and false-alarm marks."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.alerts.control.mutes import FalseMark, Mutes, Silence, to_ms
from service.alerts.notify.grouping import Group, absorb, mark_muted
from service.alerts.notify.routing import Policy
from service.alerts.notify.timing import decide, notification
from service.domain import Alert, Severity, Status
from service.settings import InhibitRuleSettings, NotificationSettings, SilenceSettings
from tests.alerts.makers import alert, life

NOW = to_ms(datetime(2026, 3, 2, 3, 30, tzinfo=UTC))  # a Monday
RACKS = InhibitRuleSettings(source={"severity": "critical"}, target={"severity": "!critical"}, equal=["rack"])


def test_a_silence_mutes_what_matches_while_it_lasts_and_says_why() -> None:
    muting = Mutes(NotificationSettings())
    assert not muting.active
    muting.silences["s1"] = Silence("s1", {"entity": "db-*"}, NOW, NOW + 1000, "Ada", "moving disks")
    assert muting.active
    assert muting.reason(alert("db-7"), NOW) == "silenced by Ada (s1): moving disks"
    assert muting.reason(alert("db-7"), NOW - 1) is None
    assert muting.reason(alert("db-7"), NOW + 1000) is None
    assert muting.reason(alert("web-1"), NOW) is None


def test_silences_of_the_settings_are_in_utc_unless_they_say_otherwise() -> None:
    written = SilenceSettings(
        match={"rack": "7"},
        starts=datetime.fromisoformat("2026-03-02T03:00"),
        ends=datetime.fromisoformat("2026-03-02T04:00"),
        author="Ada",
        comment="rack 7",
    )
    muting = Mutes(NotificationSettings(silences=[written]))
    assert muting.reason(alert(labels={"rack": "7"}), NOW) == "silenced by Ada (config-1): rack 7"
    with pytest.raises(ValueError, match="must end after it starts"):
        SilenceSettings.model_validate({**written.model_dump(), "ends": written.starts})


def test_a_critical_alert_mutes_the_warnings_of_its_rack_until_it_ends() -> None:
    muting = Mutes(NotificationSettings(inhibit_rules=[RACKS]))
    _, worst, over = life("switch", labels={"rack": "7"})
    warning = alert("db-7", severity=Severity.WARNING, labels={"rack": "7"})
    elsewhere = alert("db-8", severity=Severity.WARNING, labels={"rack": "8"})
    muting.observe(worst)
    muting.observe(warning)
    assert muting.reason(warning, NOW) == f"inhibited by {worst.alert_id}"
    assert muting.reason(elsewhere, NOW) is None
    assert muting.reason(worst, NOW) is None
    muting.observe(over)
    assert muting.reason(warning, NOW) is None


def test_two_alerts_that_match_both_sides_do_not_mute_each_other() -> None:
    rule = InhibitRuleSettings(source={"rack": "7"}, target={"rack": "7"})
    muting = Mutes(NotificationSettings(inhibit_rules=[rule]))
    both = [alert("a", labels={"rack": "7"}), alert("b", labels={"rack": "7"})]
    for each in both:
        muting.observe(each)
    assert [muting.reason(each, NOW) for each in both] == [None, None]


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("78"), st.sampled_from("wcrp")), max_size=30))
def test_inhibition_depends_only_on_what_fires_now(moments: list[tuple[str, str, str]]) -> None:
    muting = Mutes(NotificationSettings(inhibit_rules=[RACKS]))
    newest: dict[tuple[str, str], Alert] = {}
    for seq, (entity, rack, mark) in enumerate(moments, 1):
        status = {"r": Status.RESOLVED, "p": Status.PENDING}.get(mark, Status.FIRING)
        severity = Severity.WARNING if mark == "w" else Severity.CRITICAL
        each = alert(entity + rack, status=status, severity=severity, seq=seq, labels={"rack": rack})
        newest[entity, rack] = each
        muting.observe(each)
    for rack in "78":
        fires = any(a.status is Status.FIRING and a.severity is Severity.CRITICAL for (_, r), a in newest.items() if r == rack)
        probe = alert("probe", severity=Severity.WARNING, labels={"rack": rack})
        assert (muting.reason(probe, NOW) is not None) is fires


@pytest.mark.parametrize("changed", [{"rack": "8"}, {"rack": "7", "tier": "test"}])
def test_inhibition_ends_also_when_a_label_of_the_source_changed_while_it_fired(changed: dict[str, str]) -> None:
    rule = InhibitRuleSettings(source={"severity": "critical", "tier": "prod"}, target={"severity": "!critical"}, equal=["rack"])
    muting = Mutes(NotificationSettings(inhibit_rules=[rule]))
    warning = alert("db-7", severity=Severity.WARNING, labels={"rack": "7"})
    muting.observe(alert("switch", seq=2, labels={"rack": "7", "tier": "prod"}))
    assert muting.reason(warning, NOW) is not None
    muting.observe(alert("switch", seq=3, labels={"tier": "prod"} | changed))
    assert muting.reason(warning, NOW) is None
    muting.observe(alert("switch", seq=4, status=Status.RESOLVED, labels={"tier": "prod"} | changed))
    assert muting.reason(warning, NOW) is None


TRANSITIONS = st.tuples(
    st.sampled_from("abc"),
    st.sampled_from("78"),
    st.sampled_from(["prod", "test"]),
    st.sampled_from(list(Status)),
    st.sampled_from([Severity.WARNING, Severity.CRITICAL]),
)
RULES = [
    RACKS,
    InhibitRuleSettings(source={"tier": "prod"}, target={"severity": "warning"}, equal=["rack", "tier"]),
    InhibitRuleSettings(source={"entity": "a"}, target={"entity": "!a"}),
]


@given(st.lists(TRANSITIONS, max_size=12))
@settings(deadline=None)
def test_inhibition_is_what_the_newest_states_alone_would_give(
    moments: list[tuple[str, str, str, Status, Severity]],
) -> None:
    muting = Mutes(NotificationSettings(inhibit_rules=RULES))
    newest: dict[str, Alert] = {}
    for seq, (entity, rack, tier, status, severity) in enumerate(moments, 1):
        newest[entity] = alert(entity, status=status, severity=severity, seq=seq, labels={"rack": rack, "tier": tier})
        muting.observe(newest[entity])
    anew = Mutes(NotificationSettings(inhibit_rules=RULES))
    for each in newest.values():
        anew.observe(each)
    probes = [alert("p", severity=s, labels={"rack": r, "tier": t}) for s in Severity for r in "78" for t in ("prod", "test")]
    for probe in (*probes, *newest.values()):
        assert muting.reason(probe, NOW) == anew.reason(probe, NOW)


def test_what_was_marked_false_mutes_its_like_only() -> None:
    muting = Mutes(NotificationSettings())
    muting.false_marks["m"] = FalseMark("m", "0" * 32, "db-*", ("memory_percent", "cpu_percent"), "Ada")
    assert muting.reason(alert("db-7"), NOW) == "like 00000000, marked false by Ada"
    assert muting.reason(alert("web-7"), NOW) is None
    muting.false_marks["m"] = FalseMark("m", "0" * 32, "db-*", ("disk",), "Ada")
    assert muting.reason(alert("db-7"), NOW) is None
    assert muting.reason(alert("db-7", metrics=()), NOW) is None


def test_what_was_muted_to_its_end_is_never_told_and_what_outlives_it_is() -> None:
    policy = Policy(group_wait=0, group_interval=0, repeat_interval=10**9)
    opened, fired, resolved = life()

    def silent(_: Alert) -> str | None:
        return "silence"

    def audible(_: Alert) -> str | None:
        return None

    group = absorb(Group(receiver="r", route="{}", labels={}, opened_at=0), [(opened, 0), (fired, 1)], 0, policy)
    muted = mark_muted(group, silent)
    assert not decide(muted, 10, policy, silent).send
    assert absorb(muted, [(resolved, 2)], 20, policy).entries == {}
    outlived = mark_muted(muted, audible)
    assert decide(outlived, 30, policy, audible).reason == "fired"
    assert len(notification(outlived, "fired", policy, audible).entries) == 1
