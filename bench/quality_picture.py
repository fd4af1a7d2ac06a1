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

# Readable for people who cannot tell red from green.
RANDOM, EVERY_ROW, SERVED = "#c3c7cd", "#2a78d6", "#35506b"


def draw(found: Mapping[str, Report], path: Path) -> None:
    """Write a PNG of the parts ``each`` (a window a row) and ``served`` (the served stride), whichever there are."""
    shown = {name: found[part] for part, name in (("each", "a window every row"), ("served", "served stride")) if part in found}
    if not shown:
        return
    first = next(iter(shown.values()))
    figure, (ranking, budgets) = plt.subplots(1, 2, figsize=(12, 3.8), layout="constrained")
    sets = sorted(first.sets)
    chance = [float(np.mean([one.vus_pr_random for one in first.series if one.set == name])) for name in sets]
    bars = {"random scores": (chance, RANDOM)}
    for (name, report), colour in zip(shown.items(), (EVERY_ROW, SERVED), strict=False):
        bars[name] = ([report.sets[one] for one in sets], colour)
    _grouped(ranking, sets, bars)
    ranking.set_title("VUS-PR by data set (1 is perfect)")

    rates = list(first.budgets)
    at_random = [first.budgets[rate].event_recall_random for rate in rates]
    bars = {"as many alarms at random": (at_random, RANDOM)}
    for (name, report), colour in zip(shown.items(), (EVERY_ROW, SERVED), strict=False):
        bars[name] = ([report.budgets[rate].event_recall for rate in rates], colour)
    _grouped(budgets, rates, bars)
    budgets.set_title("share of the events that an alarm falls into, by alert budget")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _grouped(axes: Axes, groups: list[str], bars: Mapping[str, tuple[list[float], str]]) -> None:
    width = 0.8 / len(bars)
    for at, (name, (heights, colour)) in enumerate(bars.items()):
        drawn = axes.bar(np.arange(len(groups)) + (at - (len(bars) - 1) / 2) * width, heights, width, color=colour, label=name)
        axes.bar_label(drawn, fmt="%.2f", fontsize=7, padding=1)
    axes.set_xticks(np.arange(len(groups)), groups, fontsize=9)
    axes.set_ylim(0, 1.12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, ncols=len(bars), loc="upper center")
