"""Times and frequencies in words, for people. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from service.alerts.messages.numbers import two_figures

_HOUR = 1 / 24
# Up to so many days a frequency is told in this unit of so many days.
_UNITS = ((2 * _HOUR, 1 / 1440, "minute"), (2.0, _HOUR, "hour"), (14.0, 1.0, "day"), (61.0, 7.0, "week"), (730.0, 30.4, "month"))
_SMALL = ("", "", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def moment(milliseconds: int, zone: str = "UTC") -> str:
    """``2026-11-22 03:04:05 UTC``; in another zone ``2026-11-22 04:04:05 CET (03:04 UTC)``."""
    utc = datetime.fromtimestamp(milliseconds / 1000, UTC)
    if zone == "UTC":
        return utc.strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"{utc.astimezone(ZoneInfo(zone)).strftime('%Y-%m-%d %H:%M:%S %Z')} ({utc.strftime('%H:%M')} UTC)"


def how_often(days: float) -> str:
    """``about once in three weeks``: how often something comes, by the days between two."""
    length, unit = next(((size, name) for most, size, name in _UNITS if days < most), (365.25, "year"))
    count = two_figures(max(days / length, 1.0))
    if count == 1:
        return f"about once {'an' if unit == 'hour' else 'a'} {unit}"
    return f"about once in {_SMALL[count] if count < len(_SMALL) else f'{count:,}'} {unit}s"
