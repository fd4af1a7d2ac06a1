"""Numbers as a person reads them: rounded to what their spread makes meaningful, and as a line of blocks. Pure."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence

SPARKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float | None], width: int = 24) -> str:
    """The points as at most ``width`` block characters, each the point of its stretch farthest from the median; a gap: a space."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return ""
    low, middle, high = min(known), statistics.median_low(known), max(known)
    marks = []
    for bucket in _buckets(values, width):
        seen = [value for value in bucket if value is not None and math.isfinite(value)]
        if not seen:
            marks.append(" ")
            continue
        # the value farthest from the median, so that one odd row is not averaged away; halves, because a difference may be infinite
        shown = max(seen, key=lambda value: abs(value / 2 - middle / 2))
        place = 0.5 if high == low else (shown / 2 - low / 2) / (high / 2 - low / 2)
        marks.append(SPARKS[min(int(place * len(SPARKS)), len(SPARKS) - 1)])
    return "".join(marks)


def number(value: float | None, spread: float | None = None) -> str:
    """A value rounded to what its spread makes meaningful (three figures when the spread is unknown); ``no value`` for none."""
    if value is None or not math.isfinite(value):
        return "no value"
    if value == 0:
        return "0"
    if abs(value) >= 1e15 or abs(value) < 1e-6:
        return f"{value:.2e}"
    figures = 2 - math.floor(math.log10(abs(value)))
    digits = figures if spread is None or not spread > 0 or not math.isfinite(spread) else max(figures, decimals(spread))
    return fixed(value, min(digits, 8))


def decimals(spread: float) -> int:
    """Decimals that show one figure of the spread."""
    return min(8, max(0, -math.floor(math.log10(spread)))) if spread > 0 and math.isfinite(spread) else 2


def fixed(value: float, digits: int) -> str:
    """``1,234.5``: at most so many decimals, none that are zeros at the end, and no negative zero."""
    rounded = round(value, digits)
    text = f"{rounded:,.{max(0, digits)}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in {"-0", ""} else text


def two_figures(value: float) -> int:
    """A number of at least 1 to two significant figures: 40,000 for 39,812."""
    if value < 10:
        return max(1, round(value))
    return int(round(value, 1 - math.floor(math.log10(value))))


def _buckets(values: Sequence[float | None], width: int) -> list[Sequence[float | None]]:
    count = min(width, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)]
    return [values[a:b] for a, b in itertools.pairwise(edges)]
