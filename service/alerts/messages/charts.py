"""The chart in an e-mail: the newest rows of the top metrics over their usual band. CPU work: call it in a thread."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

from service.alerts.messages.numbers import number
from service.domain import Alert, MetricShare

PANELS = 3
DRAWABLE = 1e30  # matplotlib's own arithmetic overflows somewhere above; NaN is not below it either
BAND = 3.0  # robust standard deviations either side of the centre, as the words "usually … to …" say
INK, GRID, SEEN, USUAL, ODD = "#1f2933", "#d9dee4", "#1f6feb", "#8bb4f7", "#d1242f"


def draw(alert: Alert) -> bytes | None:
    """PNG of up to three metrics, one under the other, or ``None`` when no metric carries its newest rows."""
    shown = [metric for metric in alert.metrics if sum(_known(value) for value in metric.recent) >= 2][:PANELS]
    if not shown:
        return None
    # The object interface: pyplot keeps global state and is not for threads.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 0.4 + 1.25 * len(shown)), dpi=130, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
    for ax, metric in zip(axes, shown, strict=True):
        _panel(ax, metric)
    axes[-1].set_xlabel("rows before the newest", fontsize=8, color=INK)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _panel(ax: object, metric: MetricShare) -> None:
    from matplotlib.axes import Axes

    assert isinstance(ax, Axes)
    values = [float(value) if _known(value) else math.nan for value in metric.recent]  # type: ignore[arg-type]  # _known excludes None
    rows = list(range(1 - len(values), 1))
    if metric.expected is not None and metric.spread is not None and 0 < metric.spread < DRAWABLE > abs(metric.expected):
        low, high = metric.expected - BAND * metric.spread, metric.expected + BAND * metric.spread
        ax.axhspan(low, high, color=USUAL, alpha=0.25, linewidth=0)
        ax.axhline(metric.expected, color=USUAL, linewidth=1)
        odd = [(row, value) for row, value in zip(rows, values, strict=True) if not math.isnan(value) and not low <= value <= high]
        ax.scatter([row for row, _ in odd], [value for _, value in odd], s=9, color=ODD, zorder=3)
    ax.plot(rows, values, color=SEEN, linewidth=1.2)
    ax.set_title(_plain(f"{metric.name}: {number(metric.actual, metric.spread)}"), fontsize=9, loc="left", color=INK)
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
    return "Newest rows of " + ", ".join(metric.name for metric in metrics[:PANELS]) + " and the band they usually keep to"
