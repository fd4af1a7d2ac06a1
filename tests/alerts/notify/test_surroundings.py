"""Who else is unusual, and what they have in common: the choices as pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.alerts.notify.surroundings import OpenAlerts, Population, explanation
from service.domain import Alert, HealthReport, Status
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
    assert found.shared == "rack=r2: 3 of 3 unusual hosts"  # web-1 showed that env=prod is nothing special
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


def population(*known: Mapping[str, str], whole: bool = False) -> Population:
    return Population(Counter(item for labels in known for item in labels.items()), len(known), whole)


R1, R2 = {"rack": "r1"}, {"rack": "r2"}


@pytest.mark.parametrize(
    ("unusual", "known", "told"),
    [
        ([R2, R2, R2], 10 * [R1], "rack=r2: 3 of 3"),
        ([R2, R2, R1], 10 * [R1], "rack=r2: 2 of 3"),
        ([R2, R1, R1], [], ""),  # it is not what this alert has
        ([R2, R2, R1, R1, R1], [], ""),  # less than half
        ([{"env": "p"}, {"env": "p"}], 10 * [{"env": "p"}], ""),  # everything has it
        ([{"env": "p"} | R2, {"env": "p"} | R2], [], "env=p, rack=r2: 2 of 2"),  # nothing tells them apart
        ([{"env": "p"} | R2, {"env": "p"} | R2], 3 * [{"env": "p"} | R1], "rack=r2: 2 of 2"),
        ([R2], [], ""),
        ([], [], ""),
    ],
)
def test_the_label_value_that_explains_best(unusual: Sequence[dict[str, str]], known: Sequence[dict[str, str]], told: str) -> None:
    assert explanation(unusual, population(*known, *unusual)) == (f"{told} unusual hosts" if told else "")


def test_where_all_entities_are_known_it_says_how_many_of_them_are_unusual() -> None:
    everyone = [*3 * [{"env": "p"} | R1], *5 * [{"env": "p"} | R2]]
    assert explanation([everyone[0]] * 3, population(*everyone, whole=True)) == "rack=r1: 3 of 3 hosts"
    assert explanation([everyone[-1]] * 3, population(*everyone, whole=True)) == "rack=r2: 3 of 5 hosts"
    assert explanation([{"rack": "r9"}] * 3, population(*everyone, whole=True)) == "", "it is not known how many there are"


def test_the_reports_of_the_scoring_processes_say_how_many_there_are() -> None:
    seen = OpenAlerts()
    own = at("db-7", 0)
    for each in (own, at("db-8", 1), at("db-9", 2)):
        seen.observe(each)
    reports = {
        part: HealthReport(
            topic="m", partition=part, ownership="o", at=0, entities=6, population={"rack": racks, "env": {"prod": 6}}
        )
        for part, racks in ((0, {"r2": 2, "r1": 4}), (1, {"r2": 1, "r1": 5}))
    }
    seen.take_in(reports)
    seen.take_in({0: reports[0]})  # the other has no new report
    assert seen.around([own])[own.alert_id].shared == "rack=r2: 3 of 3 hosts"


LABELS = st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz"))


@given(st.lists(LABELS, max_size=6), st.lists(LABELS, max_size=12), st.booleans())
def test_what_explains_is_a_label_of_the_alert_that_at_least_half_have(
    unusual: list[dict[str, str]], known: list[dict[str, str]], whole: bool
) -> None:
    told = explanation(unusual, population(*known, *unusual, whole=whole))
    if told:
        names, _, counts = told.partition(": ")
        for name in names.split(", "):
            key, _, value = name.partition("=")
            hits = sum(labels.get(key) == value for labels in unusual)
            anywhere = sum(labels.get(key) == value for labels in [*known, *unusual])
            assert unusual[0][key] == value
            assert hits >= max(2, len(unusual) / 2)
            assert counts == (f"{hits} of {anywhere} hosts" if whole else f"{hits} of {len(unusual)} unusual hosts")
