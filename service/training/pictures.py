"""One picture per series: score and level over the labelled events, with those caught and missed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from service.domain import F64, Mask
from service.training import metrics

if TYPE_CHECKING:
    from service.training.report import SeriesReport

# Blue, orange and red with labels: readable with red-green blindness.
SCORE, LEVEL, CAUGHT, MISSED, ALARM = "#35506b", "#8a8f98", "#2a78d6", "#e34948", "#d97706"
MOST_POINTS = 4000  # more than a picture has pixels; longer series show the highest score of each stretch


def draw(
    result: SeriesReport, surprise: F64, level: F64, labels: NDArray[np.uint8], anomaly: Mask, path: Path, *, width: float = 12.0
) -> None:
    """Write a PNG of one series: score and level over the rows, events shaded blue (caught) or red (missed), alerts as marks."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import, and only pictures need it
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    rows, score = _thinned(surprise)
    _, threshold = _thinned(level)
    axes.plot(rows, score, color=SCORE, linewidth=0.8, label="score (surprise)")
    axes.plot(rows, threshold, color=LEVEL, linewidth=1.0, linestyle="--", label="level of the alert budget")
    top = max(float(np.quantile(surprise, 0.995)), float(level.max()), 3.0) * 1.25
    in_legend = set()
    for start, stop in metrics.events(labels).tolist():
        caught = bool(anomaly[start:stop].any())
        label = "event caught" if caught else "event missed"
        colour = CAUGHT if caught else MISSED
        axes.axvspan(start, stop, color=colour, alpha=0.22, linewidth=0, label=None if label in in_legend else label)
        at = (start + stop) / 2
        axes.annotate("caught" if caught else "missed", (at, top * 0.97), color=colour, ha="center", va="top", fontsize=8)
        in_legend.add(label)
    _marks(axes, np.flatnonzero(anomaly & (labels > 0)), top, CAUGHT, "alert on an event")
    _marks(axes, np.flatnonzero(anomaly & (labels == 0)), top, ALARM, "false alarm")
    axes.set_ylim(0, top)
    axes.set_xlim(0, len(surprise))
    axes.set_xlabel("row of the test split")
    axes.set_ylabel("surprise = log10(one in N)")
    caught_share = "no events" if not result.events else f"{result.event_recall:.0%} of {result.events} events caught"
    axes.set_title(
        f"{result.set}/{result.series}: VUS-PR {result.vus_pr:.2f} (random {result.vus_pr_random:.2f}), {caught_share}, "
        f"{result.false_positive_rate:.2%} false positives",
        loc="left",
        fontsize=10,
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _marks(axes: object, rows: NDArray[np.int64], top: float, colour: str, label: str) -> None:
    if len(rows):
        axes.plot(rows, np.full(len(rows), top * 0.03), "^", color=colour, markersize=5, label=label)  # type: ignore[attr-defined]  # matplotlib is untyped here


def _thinned(values: F64) -> tuple[NDArray[np.int64], F64]:
    """Rows and values, at most ``MOST_POINTS``: of each stretch its highest."""
    if len(values) <= MOST_POINTS:
        return np.arange(len(values)), values
    step = -(-len(values) // MOST_POINTS)
    padded = np.pad(values, (0, -len(values) % step), mode="edge")
    return np.arange(0, len(padded), step), padded.reshape(-1, step).max(axis=1)
