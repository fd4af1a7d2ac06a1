"""Maintenance windows: lengths of real time from local starts, also on the days when the clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import croniter
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.alerts.control.maintenance import MaintenanceWindow
from service.alerts.control.mutes import Mutes, to_ms
from service.settings import MaintenanceSettings, NotificationSettings
from tests.alerts.makers import alert

MINUTE = 60_000
# zone, the minute of a change (UTC). Lord Howe moves by half an hour.
CHANGES = {
    "Europe/Berlin": ("2027-03-28T01:00", "2027-10-31T01:00"),
    "America/New_York": ("2027-03-14T07:00", "2027-11-07T06:00"),
    "Australia/Lord_Howe": ("2027-10-02T15:30", "2027-04-03T15:00"),
}


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def spans(cron: str, minutes: int, zone: str, around: datetime) -> list[str]:
    """When alerts are muted within 20 hours of a moment: ``local start, minutes``."""
    window = MaintenanceSettings(cron=cron, duration_minutes=minutes, timezone=zone)
    mutes = Mutes(NotificationSettings(maintenance=[window]))
    probe, found, opened = alert(), [], None
    for minute in range(-20 * 60, 20 * 60 + 1):
        moment = around + timedelta(minutes=minute)
        muted = mutes.reason(probe, to_ms(moment)) is not None
        if muted and opened is None:
            opened = moment
        elif not muted and opened is not None:
            local = opened.astimezone(ZoneInfo(zone))
            found.append(f"{local:%d %H:%M %z}, {(moment - opened) // timedelta(minutes=1)}")
            opened = None
    return found


@pytest.mark.parametrize(
    ("local", "opened"),
    [("2026-03-02 01:59:59", False), ("2026-03-02 02:00:00", True), ("2026-03-02 03:59:59", True), ("2026-03-02 04:00:00", False)],
)
def test_a_maintenance_window_opens_on_the_dot_and_closes_on_time(local: str, opened: bool) -> None:
    window = MaintenanceSettings(cron="0 2 * * mon", duration_minutes=120)
    assert MaintenanceWindow(window).is_open(to_ms(datetime.fromisoformat(local))) is opened


def test_a_maintenance_window_lives_in_its_own_time_zone() -> None:
    window = MaintenanceSettings(cron="0 5 * * *", duration_minutes=60, timezone="Asia/Kolkata", comment="backup")  # 23:30 UTC
    assert MaintenanceWindow(window).is_open(to_ms(datetime(2026, 3, 1, 23, 45, tzinfo=UTC)))
    assert not MaintenanceWindow(window).is_open(to_ms(datetime(2026, 3, 1, 5, 15, tzinfo=UTC)))
    muting = Mutes(NotificationSettings(maintenance=[window]))
    assert (
        muting.reason(alert(), to_ms(datetime(2026, 3, 1, 23, 45, tzinfo=UTC))) == "in maintenance (0 5 * * * Asia/Kolkata): backup"
    )


@given(st.integers(0, 6 * 24 * 60), st.integers(1, 600))
@settings(max_examples=60, deadline=None)
def test_a_daily_window_is_open_exactly_for_its_length(minute: int, length: int) -> None:
    window = MaintenanceSettings(cron="0 2 * * *", duration_minutes=length)
    moment = datetime(2026, 3, 2, tzinfo=UTC) + timedelta(minutes=minute)
    since = (moment - datetime(2026, 3, 1, 2, tzinfo=UTC)) % timedelta(days=1)
    assert MaintenanceWindow(window).is_open(to_ms(moment)) is (since < timedelta(minutes=length))


@pytest.mark.parametrize(
    ("cron", "zone", "why"),
    [
        ("not cron", "UTC", "not a cron expression"),
        ("0 2 * * *", "Mars/Base", "no time zone"),
        ("r 2 * * *", "UTC", "not a cron expression"),
    ],
)
def test_an_unreadable_window_is_refused_with_its_reason(cron: str, zone: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        MaintenanceSettings(cron=cron, duration_minutes=1, timezone=zone)


BERLIN, NEW_YORK, LORD_HOWE = CHANGES
SPRING, AUTUMN = 0, 1


@pytest.mark.parametrize(
    ("zone", "season", "cron", "minutes", "muted"),
    [
        (BERLIN, SPRING, "30 1 * * *", 90, ["28 01:30 +0100, 90"]),
        (BERLIN, SPRING, "30 2 * * *", 90, ["28 03:00 +0200, 90"]),  # 02:30 is skipped: it opens as the clocks jump
        (BERLIN, SPRING, "*/10 2 * * *", 5, ["28 03:00 +0200, 5"]),
        (BERLIN, SPRING, "0 0 * * *", 300, ["28 00:00 +0100, 300"]),
        (BERLIN, AUTUMN, "30 1 * * *", 90, ["31 01:30 +0200, 90"]),
        (BERLIN, AUTUMN, "30 2 * * *", 45, ["31 02:30 +0200, 45"]),  # 02:30 comes twice: it opens once, at the first
        (BERLIN, AUTUMN, "0 3 * * sun", 90, ["31 03:00 +0100, 90"]),
        (NEW_YORK, SPRING, "0 1 * * *", 120, ["14 01:00 -0500, 120"]),
        (NEW_YORK, SPRING, "30 2 * * *", 60, ["14 03:00 -0400, 60"]),
        (NEW_YORK, AUTUMN, "30 1 * * *", 60, ["07 01:30 -0400, 60"]),
        (LORD_HOWE, SPRING, "15 2 * * *", 60, ["03 02:30 +1100, 60"]),
        (LORD_HOWE, AUTUMN, "45 1 * * *", 60, ["04 01:45 +1100, 60"]),
    ],
)
def test_a_window_lasts_as_long_as_it_says_when_the_clocks_change(
    zone: str, season: int, cron: str, minutes: int, muted: list[str]
) -> None:
    change = utc(CHANGES[zone][season])
    day = change.astimezone(ZoneInfo(zone)).day
    assert [span for span in spans(cron, minutes, zone, change) if span.startswith(f"{day:02}")] == muted


def test_a_window_of_every_hour_follows_the_clock_and_has_no_hole() -> None:
    autumn = spans("30 * * * *", 20, BERLIN, utc(CHANGES[BERLIN][AUTUMN]))
    assert [span for span in autumn if span.startswith("31 02")] == ["31 02:30 +0200, 20", "31 02:30 +0100, 20"]
    spring = spans("30 * * * *", 20, BERLIN, utc(CHANGES[BERLIN][SPRING]))
    assert [span for span in spring if span[:5] in {"28 01", "28 02", "28 03"}] == ["28 01:30 +0100, 20", "28 03:30 +0200, 20"]


def expected(minutes: set[int], hours: set[int], days: set[int], length: int, zone: str, around: datetime) -> list[bool]:
    """Two days after ``around``, minute by minute, by looking at the clock on the wall each minute since three days before."""
    tz = ZoneInfo(zone)

    def named(wall: datetime) -> bool:
        return wall.minute in minutes and wall.hour in hours and wall.isoweekday() % 7 in days

    every_hour = len(hours) == 24
    until, opened, found = None, around - timedelta(days=3), []
    before = opened.astimezone(tz).replace(tzinfo=None)
    for minute in range(5 * 24 * 60):
        moment = opened + timedelta(minutes=minute)
        wall = moment.astimezone(tz)
        naive = wall.replace(tzinfo=None, fold=0)
        skipped = [before + timedelta(minutes=k) for k in range(1, (naive - before) // timedelta(minutes=1))] if minute else []
        opens = named(naive) and (every_hour or wall.fold == 0)
        if opens or (not every_hour and any(named(each) for each in skipped)):
            until = moment + timedelta(minutes=length)
        found.append(until is not None and moment < until)
        before = naive
    return found[3 * 24 * 60 - 2 * 60 :]


@given(
    st.sets(st.integers(0, 59), min_size=1, max_size=3),
    st.one_of(st.sets(st.sampled_from([0, 1, 2, 3, 4]), min_size=1), st.just(set(range(24)))),
    st.one_of(st.just(set(range(7))), st.sets(st.integers(0, 6), min_size=1)),
    st.sampled_from([1, 29, 30, 59, 60, 61, 90, 150, 1500]),
    st.sampled_from(list(CHANGES)),
    st.sampled_from([SPRING, AUTUMN]),
)
@settings(max_examples=25, deadline=None)
def test_a_window_is_open_when_somebody_with_a_clock_on_the_wall_and_a_stopwatch_says_so(
    minutes: set[int], hours: set[int], days: set[int], length: int, zone: str, season: int
) -> None:
    around = utc(CHANGES[zone][season])
    fields: list[list[object]] = [[*sorted(minutes)], [*sorted(hours)], ["*"], ["*"], [*sorted(days)]]
    if len(hours) == 24:
        fields[1] = ["*"]
    if len(days) == 7:
        fields[4] = ["*"]
    cron = " ".join(",".join(map(str, field)) for field in fields)
    mutes = Mutes(NotificationSettings(maintenance=[MaintenanceSettings(cron=cron, duration_minutes=length, timezone=zone)]))
    probe = alert()
    for minute, is_open in enumerate(expected(minutes, hours, days, length, zone, around), -2 * 60):
        moment = around + timedelta(minutes=minute)
        assert (mutes.reason(probe, to_ms(moment)) is not None) is is_open, f"{cron} for {length} min in {zone} at {moment}"


def test_ten_thousand_alerts_ask_the_cron_expression_no_more_often_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = croniter.croniter

    class Counted(real):  # type: ignore[misc, valid-type]  # croniter has no types
        def __init__(self, *args: object, **options: object) -> None:
            asked.append(args)
            super().__init__(*args, **options)

    window = MaintenanceSettings(cron="0 2 * * *", duration_minutes=60, match={"entity": "db-*"})
    mutes = Mutes(NotificationSettings(maintenance=[window]))
    monkeypatch.setattr(croniter, "croniter", Counted)
    now = to_ms(utc("2026-03-02T02:30"))
    one = alert("db-7")
    assert mutes.reason(one, now) is not None
    once = len(asked)
    for each in range(10_000):
        mutes.reason(one, now + each % 1000)
    assert len(asked) == once


@pytest.mark.parametrize("cron", ["0 0 30 2 *", "0 0 31 4,6,9,11 *"])
def test_an_expression_that_names_no_day_there_is_is_refused(cron: str) -> None:
    with pytest.raises(ValueError, match="names no date"):
        MaintenanceSettings(cron=cron, duration_minutes=1)


@pytest.mark.parametrize("cron", ["0 0 29 2 *", "0 0 29 2 sun#5"])
def test_an_expression_that_seldom_matches_is_taken(cron: str) -> None:
    mutes = Mutes(NotificationSettings(maintenance=[MaintenanceSettings(cron=cron, duration_minutes=1)]))
    assert mutes.reason(alert(), to_ms(utc("2032-02-29T00:00:59"))) is not None
    assert mutes.reason(alert(), to_ms(utc("2032-02-29T00:01"))) is None


@given(st.lists(st.integers(0, 72 * 60), min_size=1, max_size=30), st.sampled_from(["*/7 * * * *", "0 2 * * *", "30 1,2 * * *"]))
@settings(max_examples=30, deadline=None)
def test_what_was_asked_before_changes_no_answer(asked: list[int], cron: str) -> None:
    rule = MaintenanceSettings(cron=cron, duration_minutes=5, timezone=BERLIN)
    window = MaintenanceWindow(rule)
    for minute in asked:
        moment = to_ms(utc("2027-10-30T00:00") + timedelta(minutes=minute))
        assert window.is_open(moment) is MaintenanceWindow(rule).is_open(moment)


def test_an_expression_with_a_year_opens_in_that_year_only() -> None:
    window = MaintenanceWindow(MaintenanceSettings(cron="0 2 1 3 * 0 2027", duration_minutes=60))
    opened = [year for year in range(2020, 2035) if window.is_open(to_ms(utc(f"{year}-03-01T02:30")))]
    assert opened == [2027]
