"""Times and durations as text: ISO 8601, an index suffix, ``3 h 20 min``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal


def span_words(milliseconds: int, style: Literal["short", "long"] = "short") -> str:
    """A duration as text: ``45 s``, ``12 min``, ``3 h 20 min``, ``2 d 4 h`` (``long`` writes the units out)."""
    units = (("d", "day"), ("h", "hour"), ("min", "minute"), ("s", "second"))
    seconds = max(0, round(milliseconds / 1000))
    counts = (seconds // 86_400, seconds // 3600 % 24, seconds // 60 % 60, seconds % 60)
    first = next((i for i, count in enumerate(counts) if count), 3)
    shown: Sequence[int] = (first,) if first == 3 or (first == 2 and counts[2] >= 10) else (first, first + 1)
    words = []
    for i in shown:
        if counts[i] or i == first:
            short, long = units[i]
            words.append(f"{counts[i]} {short}" if style == "short" else f"{counts[i]} {long}{'' if counts[i] == 1 else 's'}")
    return " ".join(words)


def every_days(p: float, stride: int, interval_ms: int) -> float:
    """Days between two windows of one entity that are claimed to be this rare: windows are a stride of rows apart."""
    return stride * interval_ms / p / 86_400_000


def iso(milliseconds: int) -> str:
    """ISO 8601 in UTC with milliseconds."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


LIKELY_PAST_MS = 731 * 86_400_000
LIKELY_FUTURE_MS = 86_400_000


def index_month(milliseconds: int, now: int, *, likely_only: bool = False) -> str:
    """The index suffix for something of this time: its month if that is at most two years ago and a day ahead, else the current
    one (``likely_only``: else nothing). A pair of indices for every month that a clock claims would fill the cluster."""
    if now - LIKELY_PAST_MS <= milliseconds <= now + LIKELY_FUTURE_MS:
        return month(milliseconds)
    return "" if likely_only else month(now)


def month(milliseconds: int) -> str:
    """``YYYY.MM`` in UTC, the suffix of an index."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y.%m")
