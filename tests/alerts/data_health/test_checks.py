"""Alerts about single entities, late messages and old models: what the workers report, and what people are told of it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from service.alerts.control.matchers import attribute, matches
from service.alerts.data_health.alerts import DataHealth
from service.alerts.data_health.checks import check
from service.alerts.messages.groups import summary_title
from service.alerts.messages.message import compose
from service.domain import Alert, DataSnapshot, HealthItem, HealthItems, HealthReport, Status, TrainedModel
from service.settings import DataHealthSettings

BOUNDS = DataHealthSettings(max_entity_silence_seconds=600, fire_after=2)
T0 = 1_763_769_600_000
DAY = 86_400_000


def report(partition: int = 0, **told: Any) -> HealthReport:
    lists = {name: HealthItems(tuple(named), len(named)) for name, named in told.items() if name in ("silent", "still", "empty")}
    return HealthReport(topic="metrics", partition=partition, ownership="t", at=T0, **(told | lists))


def seen(*reports: HealthReport, **told: Any) -> DataSnapshot:
    return DataSnapshot(lag={}, reports={one.partition: one for one in reports}, **told)


def looked(data: DataHealth, *looks: DataSnapshot, begin: int = 0) -> list[Alert]:
    """The transitions of these looks, a second apart."""
    for number, look in enumerate(looks):
        data.take_in(look, T0 + (begin + number) * 1000)
    return data.take_changes()[1]


def told_of(alerts: Sequence[Alert]) -> list[tuple[str, str, str]]:
    return [(alert.entity, alert.labels["check"], alert.action) for alert in alerts]


SILENT = report(silent=[HealthItem("db-7", T0 - 900_000)])


def test_a_silent_entity_has_an_alert_of_its_own_that_says_since_when_and_what_to_do() -> None:
    data = DataHealth(BOUNDS, "metrics")
    (fired,) = looked(data, seen(SILENT), seen(SILENT))
    assert (fired.entity, fired.labels, fired.partition, fired.started_at) == ("db-7", {"check": "silent"}, 0, T0 - 900_000)
    assert (attribute(fired, "entity"), attribute(fired, "kind"), attribute(fired, "check")) == ("db-7", "data_health", "silent")
    message = compose(fired)
    assert message.title == "[WARNING] db-7: it sends nothing any more (10 min of silence allowed)"
    assert message.sentence == (
        "The data of db-7 are not well since 2025-11-21 23:45:00 UTC: it sends nothing any more (10 min of silence allowed). "
        "Look whether it runs, and whether what sends its metrics runs and reaches Kafka."
    )
    (resolved,) = looked(data, seen(report()), seen(report()), begin=5)
    assert (resolved.alert_id, resolved.seq, resolved.status) == (fired.alert_id, 2, Status.RESOLVED)
    assert compose(resolved).title == "[RESOLVED] db-7: it sends again"
    assert "well again" in compose(resolved).sentence


def test_an_alert_about_one_entity_carries_its_labels_so_that_routes_and_silences_match() -> None:
    labels = {"db-7": {"rack": "r2", "role": "db", "check": "mine"}}
    items: dict[str, Any] = {
        "silent": [HealthItem("db-7", T0 - 900_000)],
        "still": [HealthItem("db-7", T0, "cpu")],
        "empty": [HealthItem("x", T0, "io")],
    }
    data = DataHealth(BOUNDS, "metrics")
    one = seen(report(labels=labels, **items))
    fired = {alert.labels["check"]: alert for alert in looked(data, one, one)}
    for check_name in ("silent", "still"):
        assert fired[check_name].labels == {"rack": "r2", "role": "db", "check": check_name}
        assert matches(fired[check_name], {"rack": "r*", "kind": "data_health", "check": check_name})
    assert fired["empty"].labels == {"check": "empty"}
    (resolved, *_) = looked(data, seen(report()), seen(report()), begin=5)
    assert resolved.labels["rack"] == "r2"  # the one who silenced it gets no end of it either


def test_who_was_forgotten_is_no_longer_watched_and_not_well_again() -> None:
    data = DataHealth(BOUNDS, "metrics")
    looked(data, seen(SILENT), seen(SILENT))
    forgotten = seen(report(forgotten=(HealthItem("db-7", T0),)))
    (resolved,) = looked(data, forgotten, forgotten, begin=5)
    assert resolved.reason.startswith("no longer watched: it sent nothing for so long that it was forgotten")
    assert compose(resolved).sentence.startswith("The data of db-7, not well since 2025-11-21 23:45:00 UTC, are no longer watched:")


@pytest.mark.parametrize(
    "nothing_said",
    [
        seen(),  # its report is too old
        seen(report(partition=1)),  # only another's is new
        seen(HealthReport(topic="metrics", partition=0, ownership="t", at=T0, silent=HealthItems((HealthItem("a", 1),), 5000))),
    ],
)
def test_what_is_not_known_neither_resolves_nor_forgets(nothing_said: DataSnapshot) -> None:
    data = DataHealth(BOUNDS, "metrics")
    looked(data, seen(SILENT))
    looked(data, *[nothing_said] * 5, begin=1)
    assert ("db-7", "silent", "fired") in told_of(looked(data, seen(SILENT), begin=9)), "the looks in between say nothing"
    caused = looked(data, *[nothing_said] * 5, begin=10)
    assert not [alert for alert in caused if alert.entity == "db-7"]
    assert "db-7" in {alert.entity for alert in data.open_alerts()}


def test_metrics_of_one_entity_share_an_alert_that_names_them() -> None:
    one = seen(
        report(
            still=[HealthItem("db-7", T0 - 9000, "mem"), HealthItem("db-7", T0 - 5000, "cpu"), HealthItem("web", T0 - 4000, "io")]
        )
    )
    data = DataHealth(BOUNDS, "metrics")
    fired = looked(data, one, one)
    assert told_of(fired) == [("db-7", "still", "fired"), ("web", "still", "fired")]
    assert fired[0].reason == "cpu and mem stand still over a whole window, which training hardly ever saw"
    assert fired[0].started_at == T0 - 9000
    assert fired[1].reason == "io stands still over a whole window, which training hardly ever saw"
    assert summary_title(fired) == "[WARNING] 2 alerts firing on 2 entities"
    fewer = seen(report(still=[HealthItem("db-7", T0 - 5000, "cpu"), HealthItem("web", T0 - 4000, "io")]))
    (updated,) = looked(data, fewer, fewer, fewer, begin=5)
    assert (updated.action, updated.seq, updated.started_at) == ("updated", 2, T0 - 9000)
    assert updated.reason.startswith("cpu stands still")
    ended = looked(data, seen(report()), seen(report()), begin=10)
    assert [(alert.entity, alert.seq, alert.reason) for alert in ended] == [
        ("db-7", 3, "what stood still moves again"),
        ("web", 2, "what stood still moves again"),
    ]


def test_nulls_are_told_apart_from_standing_still() -> None:
    many = seen(report(empty=[HealthItem("db/7", T0, f"disk-{number}") for number in range(8)]))
    (fired,) = looked(DataHealth(BOUNDS, "metrics"), many, many)
    assert (fired.entity, fired.labels["check"]) == ("db/7", "empty")
    assert fired.reason.startswith("disk-0, disk-1, disk-2, disk-3, disk-4 and 3 more have only nulls over a whole window")


def test_of_too_many_to_name_the_topic_says_how_many() -> None:
    some = HealthReport(
        topic="metrics",
        partition=0,
        ownership="t",
        at=T0,
        silent=HealthItems((HealthItem("a", T0 - 2), HealthItem("b", T0 - 1)), 5000),
    )
    data = DataHealth(BOUNDS, "metrics")
    fired = looked(data, seen(some, report(partition=1)), seen(some, report(partition=1)))
    assert sorted(told_of(fired)) == [("a", "silent", "fired"), ("b", "silent", "fired"), ("metrics", "silent", "fired")]
    about = next(alert for alert in fired if alert.entity == "metrics")
    assert about.reason == "there are 5,000 silent entities; only the 2 that have been so for longest have alerts of their own"
    assert len(looked(data, seen(report()), seen(report()), begin=5)) == 3


def test_late_messages_are_counted_over_looks_until_there_are_enough() -> None:
    data = DataHealth(BOUNDS, "metrics")
    few = seen(taken=60, late=6)
    (fired,) = looked(data, few, few, few, few)
    assert (fired.entity, fired.reason) == ("metrics", "12 of 120 messages came too late to be used (5% allowed)")
    assert "stream.allowed_lateness_seconds" in compose(fired).sentence
    (resolved,) = looked(data, *[seen(taken=100, late=5)] * 2, begin=9)
    assert resolved.reason == "5 of 100 messages came too late to be used (5% allowed)"


def test_an_old_model_is_told_and_a_new_one_ends_it() -> None:
    old = seen(report(models=(TrainedModel("db", T0 - 100 * DAY), TrainedModel("web", T0 - DAY))))
    new = seen(report(models=(TrainedModel("db", T0 - DAY),)))
    data = DataHealth(BOUNDS, "metrics")
    (fired,) = looked(data, old, old)
    assert (fired.entity, fired.reason) == ("metrics", "a model is older than 90 days: db (trained 100 d ago)")
    assert "tidewatch train" in compose(fired).sentence
    assert [alert.action for alert in looked(data, seen(), seen(), new, new, begin=5)] == ["resolved"], "no report says nothing"


def test_what_has_no_bound_is_not_watched_and_its_alerts_end() -> None:
    data = DataHealth(BOUNDS, "metrics")
    looked(data, seen(SILENT), seen(SILENT))
    data.settings = DataHealthSettings(fire_after=2)
    assert "silent/db-7" not in check(seen(SILENT), data.settings, T0)
    (resolved,) = looked(data, seen(SILENT), seen(SILENT), begin=5)
    assert (resolved.entity, resolved.reason) == ("db-7", "no longer watched")


LOOK = st.sampled_from(["silent", "well", "gone", "stale", "crowded"])


@examples(max_examples=300, deadline=None)
@given(st.lists(LOOK, max_size=40), st.booleans())
def test_it_follows_what_is_known_of_the_entity_whatever_restarts(looks: list[str], restarts: bool) -> None:
    """Two in a row that say the same settle it; those that say nothing are as if they had not been."""
    crowded = HealthReport(topic="metrics", partition=0, ownership="t", at=T0, silent=HealthItems((HealthItem("other", 1),), 9))
    reports = {
        "silent": seen(SILENT),
        "well": seen(report()),
        "gone": seen(report(forgotten=(HealthItem("db-7", T0),))),
        "stale": seen(),
        "crowded": seen(crowded),
    }
    data, kept, emitted = DataHealth(BOUNDS, "metrics"), dict[bytes, bytes](), list[str]()
    expected: list[str] = []
    open_, row = False, 0
    for number, look in enumerate(looks):
        if look in ("silent", "well", "gone"):
            row = row + 1 if (look == "silent") is not open_ else 0
            if row == 2:
                open_, row = not open_, 0
                expected.append("fired" if open_ else "resolved")
        data.take_in(reports[look], T0 + number * 1000)
        records, caused = data.take_changes()
        emitted += [alert.action for alert in caused if alert.entity == "db-7"]
        assert all(msgspec.json.decode(msgspec.json.encode(alert), type=Alert) == alert for alert in caused)
        kept |= {key: value for key, value in records.items() if value is not None}
        for key in [key for key, value in records.items() if value is None]:
            kept.pop(key, None)
        if restarts:
            data = DataHealth(BOUNDS, "metrics")
            data.restore(kept)
    assert emitted == expected
