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


def iso(milliseconds: int) -> str:
    """ISO 8601 in UTC with milliseconds."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def month(milliseconds: int) -> str:
    """``YYYY.MM`` in UTC, the suffix of an index."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y.%m")
