"""Values with their unit, scaled as a person writes them: 447,680,032 of ``net.received_bytes_s`` are 448 MB/s. Pure.

The unit of a metric is what ``notifications.units`` says, else what its name ends with:

    …bytes_s, …bytes_per_second, …bytes_rate     B/s      …mbs          MB/s
    …bytes                                       B        …kb, …mb, …gb kB, MB, GB
    …pct, …percent                               %        …bits_s, …bps bit/s
    …ns, …us, …ms, …seconds, …sec                ns, µs, ms, s
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from service.alerts.messages.numbers import number

_BY_NAME = (
    (r"bytes(_s|_per_s(ec(ond)?)?|_rate)|bytes_(sent|recv|received)_(s|rate)", "B/s"),
    (r"(bits(_s|_per_s(ec(ond)?)?)|bps)", "bit/s"),
    (r"bytes", "B"),
    (r"mbs", "MB/s"),
    (r"kb", "kB"),
    (r"mb", "MB"),
    (r"gb", "GB"),
    (r"pct|percent", "%"),
    (r"ns|nanoseconds", "ns"),
    (r"us|microseconds", "µs"),
    (r"ms|millis(econds)?", "ms"),
    (r"seconds|sec", "s"),
)
_PATTERNS = tuple((re.compile(rf"(.*[^a-z])?({pattern})", re.IGNORECASE | re.DOTALL), unit) for pattern, unit in _BY_NAME)
# Units that grow and shrink by thousands, smallest first; a value is shown in the largest of which it has at least one.
_SCALES = (
    ("B", "kB", "MB", "GB", "TB", "PB"),
    ("B/s", "kB/s", "MB/s", "GB/s", "TB/s", "PB/s"),
    ("bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"),
    ("ns", "µs", "ms", "s"),
)


def unit_of(metric: str, units: Sequence[tuple[str, str]] = ()) -> str:
    """The unit of a metric, empty where none is known. ``units``: (glob of names, unit), the first that matches wins."""
    for glob, unit in units:
        if fnmatchcase(metric, glob):
            return unit
    return next((unit for pattern, unit in _PATTERNS if pattern.fullmatch(metric)), "")


def with_unit(value: float | None, unit: str, spread: float | None = None) -> str:
    """The value in words: ``448 MB/s``, ``97 %``, ``1.2 s``; ``no value`` for none."""
    if value is None or not math.isfinite(value) or not unit:
        return number(value, spread)
    for scale in _SCALES:
        if unit in scale:
            scaled, larger = _scaled(value, scale, scale.index(unit))
            # in a larger unit, three figures: the spread was in the smaller one
            value, spread, unit = scaled, spread if larger == unit else None, larger
            break
    return f"{number(value, spread)} {unit}"


def _scaled(value: float, scale: Sequence[str], at: int) -> tuple[float, str]:
    while abs(value) >= 1000 and at + 1 < len(scale):
        value, at = value / 1000, at + 1
    while 0 < abs(value) < 1 and at > 0:
        value, at = value * 1000, at - 1
    return value, scale[at]
