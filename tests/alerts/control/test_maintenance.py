"""Maintenance windows: lengths of real time from local starts, also on the days when the clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import croniter
import pytest

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


BERLIN, NEW_YORK, LORD_HOWE = CHANGES
SPRING, AUTUMN = 0, 1


@pytest.mark.parametrize(
    ("zone", "season", "cron", "minutes", "muted"),
    [
        (BERLIN, SPRING, "30 1 * * *", 90, ["28 01:30 +0100, 90"]),
        (BERLIN, SPRING, "0 0 * * *", 300, ["28 00:00 +0100, 300"]),
        (BERLIN, AUTUMN, "30 1 * * *", 90, ["31 01:30 +0200, 90"]),
        (BERLIN, AUTUMN, "30 2 * * *", 45, ["31 02:30 +0200, 45"]),  # 02:30 comes twice: it opens once, at the first
        (NEW_YORK, SPRING, "0 1 * * *", 120, ["14 01:00 -0500, 120"]),
        (NEW_YORK, AUTUMN, "30 1 * * *", 60, ["07 01:30 -0400, 60"]),
        (LORD_HOWE, AUTUMN, "45 1 * * *", 60, ["04 01:45 +1100, 60"]),
    ],
)
@pytest.mark.xfail(strict=True, reason="a window is measured on the wall clock, so it is shorter or longer when the clocks change")
def test_a_window_lasts_as_long_as_it_says_when_the_clocks_change(
    zone: str, season: int, cron: str, minutes: int, muted: list[str]
) -> None:
    change = utc(CHANGES[zone][season])
    day = change.astimezone(ZoneInfo(zone)).day
    assert [span for span in spans(cron, minutes, zone, change) if span.startswith(f"{day:02}")] == muted


@pytest.mark.xfail(strict=True, reason="the cron expression is read once for every alert")
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
@pytest.mark.xfail(strict=True, reason="an expression that never matches passes validation and ends the receiver's task later")
def test_an_expression_that_names_no_day_there_is_is_refused(cron: str) -> None:
    with pytest.raises(ValueError, match="names no date"):
        MaintenanceSettings(cron=cron, duration_minutes=1)


@pytest.mark.parametrize("cron", ["0 0 29 2 *", "0 0 29 2 sun#5"])
def test_an_expression_that_seldom_matches_is_taken(cron: str) -> None:
    mutes = Mutes(NotificationSettings(maintenance=[MaintenanceSettings(cron=cron, duration_minutes=1)]))
    assert mutes.reason(alert(), to_ms(utc("2032-02-29T00:00:59"))) is not None
    assert mutes.reason(alert(), to_ms(utc("2032-02-29T00:01"))) is None
