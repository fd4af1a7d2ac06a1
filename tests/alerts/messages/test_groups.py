"""A message about several alerts: what the receiver does not know yet comes first and names itself."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from service.alerts.messages.circumstances import Circumstances
from service.alerts.messages.groups import NAMED, opening, rank_first, summary_title
from service.alerts.messages.rendering import context
from service.alerts.receivers.slack import payload
from service.domain import Alert, Severity, Status
from tests.alerts.makers import BORN, alert

OLD = [alert(f"web-{n}", severity=Severity.CRITICAL) for n in range(4)]
NEW = alert("db-7", severity=Severity.WARNING, started_at=(BORN + 600) * 1000)
KNOWN = {each.alert_id: Circumstances(notified_severity=each.severity) for each in OLD}


def test_a_new_fault_in_a_group_of_old_ones_names_itself_first() -> None:
    assert (
        summary_title([*OLD, NEW], KNOWN) == "[WARNING] db-7: cpu_percent 95.4 % instead of about 41 %; 4 older alerts still firing"
    )
    assert rank_first([*OLD, NEW], KNOWN)[0] is NEW
    made = context([*OLD, NEW], "key", KNOWN, 10)
    assert made["messages"][0].entity == "db-7"
    assert made["opening"].startswith("db-7 is behaving unusually since 2025-11-22 00:10:00 UTC")
    assert payload([*OLD, NEW], KNOWN)["text"].startswith("[WARNING] db-7: cpu")


def test_what_else_is_new_or_changed_or_over_is_counted_behind_it() -> None:
    raised = Circumstances(notified_severity=Severity.WARNING, changed=True)
    over = alert("db-9", status=Status.RESOLVED, seq=3)
    told = summary_title([*OLD, NEW, alert("db-8", severity=Severity.INFO), over], KNOWN | {OLD[0].alert_id: raised})
    assert told == (
        "[WARNING] db-7: cpu_percent 95.4 % instead of about 41 %, 1 more new, 1 more changed; "
        "3 older alerts still firing, 1 resolved"
    )
    assert summary_title(OLD, KNOWN | {OLD[2].alert_id: raised}).startswith("[CRITICAL] web-2: cpu_percent")
    assert summary_title(OLD, KNOWN) == "[CRITICAL] 4 alerts still firing on 4 entities"
    many = [alert(f"db-{n}", severity=Severity.WARNING) for n in range(4)]
    assert summary_title([*OLD, *many], KNOWN) == "[WARNING] 4 new alerts firing on 4 entities; 4 older alerts still firing"
    assert summary_title([*OLD, NEW]) == "[CRITICAL] 5 alerts firing on 5 entities"


NEWS = st.sampled_from(["new", "changed", "old", "over"])


@given(st.lists(NEWS, min_size=2, max_size=6))
def test_nothing_known_stands_before_something_new(kinds: Sequence[str]) -> None:
    alerts, known = [], {}
    for n, kind in enumerate(kinds):
        made: Alert = alert(f"e{n}", status=Status.RESOLVED if kind == "over" else Status.FIRING)
        alerts.append(made)
        if kind in ("changed", "old"):
            known[made.alert_id] = Circumstances(notified_severity=made.severity, changed=kind == "changed")
    order = [kinds[int(each.entity[1:])] for each in rank_first(alerts, known)]
    assert order == sorted(kinds, key=["new", "changed", "old", "over"].index)
    first = rank_first(alerts, known)[0]
    if 0 < sum(kind in ("new", "changed") for kind in kinds) <= NAMED and "old" in kinds:
        assert f"{first.entity}:" in summary_title(alerts, known)
        assert opening(alerts, known).startswith(first.entity)
