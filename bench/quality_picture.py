"""The quality bench's results as one picture: rankings by set, and what the alert budgets find."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from service.training.report import Report

mpl.use("Agg")
from matplotlib import pyplot as plt

# Name and colour of each part of the bench in the picture; the colours can be told apart with red-green blindness.
PARTS = {"each": ("a window every row", "#2a78d6"), "served": ("served stride", "#35506b")}
RANDOM = "#c3c7cd"

Bars = list[tuple[str, str, list[float]]]  # name, colour, heights


def draw(found: Mapping[str, Report], path: Path) -> None:
    """Write a PNG of the parts ``each`` (a window a row) and ``served`` (the served stride), whichever there are."""
    shown = [(*told, found[part]) for part, told in PARTS.items() if part in found]
    if not shown:
        return
    _, _, first = shown[0]
    figure, (ranking, budgets) = plt.subplots(1, 2, figsize=(12, 3.8), layout="constrained")
    sets = sorted(first.sets)
    chance = [float(np.mean([one.vus_pr_random for one in first.series if one.set == name])) for name in sets]
    ranked = [(name, colour, [report.sets[one] for one in sets]) for name, colour, report in shown]
    _grouped(ranking, sets, [("random scores", RANDOM, chance), *ranked])
    ranking.set_title("VUS-PR by data set (1 is perfect)")

    rates = list(first.budgets)
    at_random = [first.budgets[rate].event_recall_random for rate in rates]
    recalls = [(name, colour, [report.budgets[rate].event_recall for rate in rates]) for name, colour, report in shown]
    _grouped(budgets, rates, [("as many alarms at random", RANDOM, at_random), *recalls])
    budgets.set_title("share of the events that an alarm falls into, by alert budget")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _grouped(axes: Axes, groups: list[str], bars: Bars) -> None:
    width = 0.8 / len(bars)
    for at, (name, colour, heights) in enumerate(bars):
        drawn = axes.bar(np.arange(len(groups)) + (at - (len(bars) - 1) / 2) * width, heights, width, color=colour, label=name)
        axes.bar_label(drawn, fmt="%.2f", fontsize=7, padding=1)
    axes.set_xticks(np.arange(len(groups)), groups, fontsize=9)
    axes.set_ylim(0, 1.12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, ncols=len(bars), loc="upper center")
