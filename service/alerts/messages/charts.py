"""The chart in an e-mail: the newest rows of the top metrics over their usual band. CPU work: call it in a thread."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from service.alerts.messages.circumstances import PLAIN, Circumstances
from service.alerts.messages.message import leading, usual_band
from service.alerts.messages.units import unit_of, with_unit
from service.domain import Alert, MetricShare

PANELS = 3
DRAWABLE = 1e30  # matplotlib's own arithmetic overflows somewhere above; NaN is not below it either
INK, GRID, SEEN, USUAL, ODD = "#1f2933", "#d9dee4", "#1f6feb", "#8bb4f7", "#d1242f"


def draw(alert: Alert, circumstances: Circumstances = PLAIN) -> bytes | None:
    """PNG of up to three metrics, one under the other, or ``None`` when no metric carries its newest rows. The axis shows the time
    of day in the circumstances' zone, where the alert says when its rows were seen."""
    shown = [metric for metric in leading(alert.metrics) if sum(_known(value) for value in metric.recent) >= 2][:PANELS]
    if not shown:
        return None
    # The object interface: pyplot keeps global state and is not for threads.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 0.4 + 1.25 * len(shown)), dpi=130, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
    for ax, metric in zip(axes, shown, strict=True):
        _panel(ax, metric, _times(alert, len(metric.recent), circumstances.zone), unit_of(metric.name, circumstances.units))
    timed = alert.metrics_at and alert.interval_ms
    last = (
        f"time of day ({circumstances.zone}); shaded: what is usual" if timed else "rows before the newest; shaded: what is usual"
    )
    axes[-1].set_xlabel(last, fontsize=8, color=INK)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _times(alert: Alert, rows: int, zone: str) -> list[Any]:
    """The time of each row, oldest first; how many rows before the newest where that is not known."""
    if not (alert.metrics_at and alert.interval_ms):
        return list(range(1 - rows, 1))
    newest, here = alert.metrics_at / 1000, ZoneInfo(zone)
    return [datetime.fromtimestamp(newest - back * alert.interval_ms / 1000, here) for back in range(rows - 1, -1, -1)]


def _panel(ax: object, metric: MetricShare, rows: list[Any], unit: str) -> None:
    from matplotlib.axes import Axes
    from matplotlib.dates import DateFormatter
    from matplotlib.ticker import FuncFormatter

    assert isinstance(ax, Axes)
    values = [float(value) if _known(value) else math.nan for value in metric.recent]  # type: ignore[arg-type]  # _known excludes None
    band = usual_band(metric)
    if band is not None and metric.expected is not None and max(map(abs, band)) < DRAWABLE:
        low, high = band
        ax.axhspan(low, high, color=USUAL, alpha=0.25, linewidth=0)
        ax.axhline(metric.expected, color=USUAL, linewidth=1)
        odd = [(row, value) for row, value in zip(rows, values, strict=True) if not math.isnan(value) and not low <= value <= high]
        ax.scatter([row for row, _ in odd], [value for _, value in odd], s=9, color=ODD, zorder=3)
    ax.plot(rows, values, color=SEEN, linewidth=1.2)
    if rows and isinstance(rows[0], datetime):
        short = (rows[-1] - rows[0]).total_seconds() < 300
        ax.xaxis.set_major_formatter(DateFormatter("%H:%M:%S" if short else "%H:%M", tz=rows[0].tzinfo))  # type: ignore[no-untyped-call]
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: with_unit(value, unit)))
    ax.set_title(_plain(f"{metric.name}: {with_unit(metric.actual, unit, metric.spread)}"), fontsize=9, loc="left", color=INK)
    ax.tick_params(labelsize=7, colors=INK)
    ax.grid(color=GRID, linewidth=0.5)
    for side in ax.spines.values():
        side.set_color(GRID)


def _known(value: float | None) -> bool:
    return value is not None and abs(value) < DRAWABLE


def _plain(text: str) -> str:
    """A metric's name comes from outside: its dollar signs start no formula, and ``?`` stands for what the font cannot draw."""
    from matplotlib.font_manager import findfont, get_font

    drawable = get_font(findfont("DejaVu Sans")).get_charmap()
    return "".join(ch if ord(ch) in drawable and ch.isprintable() else "?" for ch in text[:100]).replace("$", r"\$")


def described(metrics: Sequence[MetricShare]) -> str:
    """Alternative text of the chart."""
    names = ", ".join(metric.name for metric in leading(metrics)[:PANELS])
    return f"Newest rows of {names} and the band they usually keep to"
