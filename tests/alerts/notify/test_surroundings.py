"""Who else is unusual, and what they have in common: the choices as pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.alerts.notify.surroundings import OpenAlerts, explanation
from service.domain import Alert, Status
from tests.alerts.makers import BORN, alert

MINUTE = 60_000
NOW = BORN * 1000


def at(entity: str, minutes: float, rack: str = "r2", **changes: object) -> Alert:
    return alert(entity, started_at=NOW + round(minutes * MINUTE), labels={"rack": rack, "env": "prod"}, **changes)  # type: ignore[arg-type]


def test_who_else_is_unusual_is_told_first_onset_first() -> None:
    seen = OpenAlerts()
    own = at("db-7", 0)
    for each in (own, at("db-9", 2), at("db-8", -3), at("web-1", 45), at("web-2", 20, "r1", status=Status.PENDING), at("db-7", 1)):
        seen.observe(each)
    found = seen.around([own])[own.alert_id]
    assert [each.entity for each in found.neighbours] == ["db-8", "db-9"]
    assert found.neighbours_total == 2
    assert found.neighbours[0].top_metric == "cpu_percent"
    assert found.shared == "rack=r2: 3 of 3 hosts"  # web-1 showed that env=prod is nothing special
    seen.observe(at("db-8", -3, status=Status.RESOLVED, seq=3))
    assert [each.entity for each in seen.around([own])[own.alert_id].neighbours] == ["db-9"]


def test_an_alert_that_did_not_fire_yet_counts_only_when_it_began_at_the_same_time() -> None:
    seen = OpenAlerts()
    for each in (at("db-8", 4, status=Status.PENDING), at("db-9", 6, status=Status.PENDING)):
        seen.observe(each)
    own = at("db-7", 0)
    assert [each.entity for each in seen.around([own])[own.alert_id].neighbours] == ["db-8"]


def test_a_storm_is_counted_and_its_first_are_named() -> None:
    seen = OpenAlerts()
    for n in range(3000):
        seen.observe(at(f"web-{n:04}", n / 1000, "r9"))
    own = at("db-7", 1, "r9")
    found = seen.around([own])[own.alert_id]
    assert len(found.neighbours) == 20
    assert found.neighbours_total == 3000


@pytest.mark.parametrize(
    ("unusual", "known", "told"),
    [
        ([{"rack": "r2"}, {"rack": "r2"}, {"rack": "r2"}], 10 * [{"rack": "r1"}], "rack=r2: 3 of 3 hosts"),
        ([{"rack": "r2"}, {"rack": "r2"}, {"rack": "r1"}], 10 * [{"rack": "r1"}], "rack=r2: 2 of 3 hosts"),
        ([{"rack": "r2"}, {"rack": "r1"}, {"rack": "r1"}], [], ""),  # it is not what this alert has
        ([{"rack": "r2"}, {"rack": "r2"}, *3 * [{"rack": "r1"}]], [], ""),  # less than half
        ([{"env": "p"}, {"env": "p"}], 10 * [{"env": "p"}], ""),  # everything has it
        ([{"env": "p", "rack": "r2"}, {"env": "p", "rack": "r2"}], [], "env=p, rack=r2: 2 of 2 hosts"),  # nothing tells them apart
        ([{"rack": "r2"}], [], ""),
        ([], [], ""),
    ],
)
def test_the_label_value_that_explains_best(unusual: Sequence[dict[str, str]], known: Sequence[dict[str, str]], told: str) -> None:
    everyone = Counter(item for labels in [*known, *unusual] for item in labels.items())
    assert explanation(unusual, everyone, len(known) + len(unusual)) == told


LABELS = st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz"))


@given(st.lists(LABELS, max_size=6), st.lists(LABELS, max_size=12))
def test_what_explains_is_a_label_of_the_alert_that_at_least_half_have(
    unusual: list[dict[str, str]], known: list[dict[str, str]]
) -> None:
    told = explanation(
        unusual, Counter(item for labels in [*known, *unusual] for item in labels.items()), len(known) + len(unusual)
    )
    if told:
        names, _, counts = told.partition(": ")
        for name in names.split(", "):
            key, _, value = name.partition("=")
            hits = sum(labels.get(key) == value for labels in unusual)
            assert unusual[0][key] == value
            assert hits >= max(2, len(unusual) / 2)
            assert counts == f"{hits} of {len(unusual)} hosts"
