"""What an alert's leading metrics say about it: since when they are unusual, and whether others have joined them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from service.domain import MetricShare

NAMED_SHARE = 0.05  # of the attribution: an alert that was told names these metrics
NEW_SHARE = 0.2  # a metric that joins an alert has at least so much of it
UNUSUAL = 4.0  # robust standard deviations from what is usual
LEAST_BEFORE = 10  # rows before the newest ones, to know what was usual just before


def named(metrics: Sequence[MetricShare]) -> tuple[str, ...]:
    """The metrics that a message about these shares names."""
    return tuple(metric.name for metric in metrics if metric.share >= NAMED_SHARE)


def newcomers(metrics: Sequence[MetricShare], known: Collection[str]) -> tuple[MetricShare, ...]:
    """Metrics that lead a window's anomaly, are unusual themselves, and were not named before."""
    return tuple(metric for metric in metrics if metric.share >= NEW_SHARE and metric.name not in known and _is_unusual(metric))


def rows_since_onset(metrics: Sequence[MetricShare], newest: int) -> int:
    """How many of the ``newest`` rows are unusual: those from the first on which one of the three leading metrics left what it did
    before by at least half of its largest step. A window is judged by many rows, its anomaly may have begun with its last one.

    Returns 1 ... ``newest``; ``newest`` where the metrics show no step.
    """
    since = 0
    for metric in metrics[:3]:
        values = np.array([np.nan if value is None else value for value in metric.recent], np.float64)
        before, latest = values[:-newest], values[-newest:]
        before = before[np.isfinite(before)]
        if len(before) < LEAST_BEFORE:
            continue
        centre = np.median(before)
        spread = 1.4826 * np.median(np.abs(before - centre))
        steps = np.nan_to_num(np.abs(latest - centre))
        if steps.max() > UNUSUAL * spread:
            since = max(since, newest - int(np.argmax(steps >= 0.5 * steps.max())))
    return since or newest


def _is_unusual(metric: MetricShare) -> bool:
    return metric.deviation is None or metric.deviation >= UNUSUAL
