"""What the notifier records, folded as a compacted topic folds it, is what it holds, whatever happens in between."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from service.alerts.notify.group_records import groups_of, records_of
from service.alerts.notify.grouping import Found, Group, absorb, settled
from service.alerts.notify.routing import Policy
from service.alerts.notify.timing import notification
from service.domain import Alert, Severity, Status
from tests.alerts.makers import alert

POLICY = Policy(group_wait=5_000, group_interval=60_000, repeat_interval=3_600_000)
STEPS = st.lists(st.one_of(st.tuples(st.sampled_from("abc"), st.sampled_from("fr")), st.sampled_from(["due", "failed", "settled"])))


def not_muted(_alert: Alert) -> str | None:
    return None


@settings(max_examples=150, deadline=None)
@given(STEPS, st.integers(1, 3))
def test_the_records_are_the_group(steps: list[tuple[str, str] | str], every: int) -> None:
    group = Group(receiver="slack", route="{}", labels={"rack": "7"}, opened_at=0)
    recorded: Group | None = None
    kept: dict[bytes, bytes] = {}
    for number, step in enumerate(steps, 2):
        match step:
            case "due" if group.pending is None and group.entries:
                due = notification(group, "fired", POLICY, not_muted)
                found = {each.alert_id: Found(earlier_count=number) for each in due.alerts[:2]}
                group = msgspec.structs.replace(group, pending=msgspec.structs.replace(due, found=found))
            case "failed" if group.pending is not None:
                pending = msgspec.structs.replace(
                    group.pending, attempts=group.pending.attempts + 1, problem="slack: answered 500."
                )
                group = msgspec.structs.replace(group, pending=pending)
            case "settled" if group.pending is not None:
                group = settled(group, group.pending, number * 1000, POLICY)
            case (entity, mark):
                status = Status.RESOLVED if mark == "r" else Status.FIRING
                came = alert(entity, status=status, severity=Severity.CRITICAL, seq=number)
                group = absorb(group, [(came, number)], number * 1000, POLICY)
        if number % every == 0:
            for key, value in records_of(group.key, recorded, group).items():
                if value is None:
                    kept.pop(key, None)
                else:
                    kept[key] = value
            recorded = group
            assert records_of(group.key, group, group) == {}
            (restored,) = groups_of(kept).values()
            assert restored == group
            recorded = restored if number % 2 else group  # as after a restart
            group = recorded


def test_a_group_that_is_forgotten_leaves_nothing() -> None:
    group = absorb(Group(receiver="slack", route="{}", labels={}, opened_at=0), [(alert(), 0)], 0, POLICY)
    group = msgspec.structs.replace(group, pending=notification(group, "fired", POLICY, not_muted))
    assert set(records_of(group.key, group, None).values()) == {None}
    assert records_of(group.key, group, None).keys() == records_of(group.key, None, group).keys()
