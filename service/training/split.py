"""Which rows are for training and which for calibration: chronological, per entity, without labelled anomalies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from service.domain import Series
from service.errors import NotEnoughData

# The fewest windows for training and for calibration (detectors and ``Calibration`` refuse fewer).
LEAST_FIT_WINDOWS = 64
LEAST_CALIBRATION_WINDOWS = 30


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """``fit`` (for training) is older than ``calibration``; ``everything`` is both, with the gap between them."""

    fit: list[Series]
    calibration: list[Series]
    everything: list[Series]


def normal_runs(series: Sequence[Series]) -> list[Series]:
    """The stretches of each series that are not labelled anomalous, in order."""
    runs: list[Series] = []
    for one in series:
        if one.labels is None or not one.labels.any():
            runs.append(replace(one, labels=None))
            continue
        normal = np.concatenate([[0], one.labels == 0, [0]]).astype(np.int8)
        edges = np.flatnonzero(np.diff(normal))
        for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            runs.append(Series(one.entity, one.start_row + start, one.values[start:stop]))
    return runs


def split(series: Sequence[Series], window: int, share: float) -> Split:
    """The newest ``share`` of each entity's normal rows is for calibration; the rows before it, less a gap of one window, for
    training.

    ``window`` is in rows. Where that would leave too few rows for either, there is no gap, and the first calibration windows
    reach back into the training rows (their newest rows are still unseen): a few hundred rows then suffice. Raises
    ``NotEnoughData`` naming the least rows needed.
    """
    runs = [run for run in normal_runs(series) if len(run.values) >= window]
    entities: dict[str, list[Series]] = {}
    for run in runs:
        entities.setdefault(run.entity, []).append(run)
    fit: list[Series] = []
    calibration: list[Series] = []
    for own in entities.values():
        rows = sum(len(run.values) for run in own)
        tail = int(rows * share)
        apart = tail >= window + max(window, LEAST_CALIBRATION_WINDOWS) and rows - tail >= 2 * window + LEAST_FIT_WINDOWS
        _split_entity(own, rows - tail, window, fit, calibration, apart=apart)
    _check(fit, calibration, window, share)
    return Split(fit, calibration, runs)


def _split_entity(
    runs: Sequence[Series], cut: int, window: int, fit: list[Series], calibration: list[Series], *, apart: bool
) -> None:
    before = 0
    for run in runs:
        n = len(run.values)
        at = min(max(cut - before, 0), n)  # rows of this run that are older than the cut
        before += n
        if at == n:
            _keep(run, 0, n, window, fit)
        elif at == 0:
            _keep(run, 0, n, window, calibration)
        else:
            _keep(run, 0, at - window if apart else at, window, fit)
            _keep(run, at if apart else max(at - window + 1, 0), n, window, calibration)


def _keep(run: Series, start: int, stop: int, window: int, into: list[Series]) -> None:
    if stop - start >= window:
        into.append(Series(run.entity, run.start_row + start, run.values[start:stop]))


def _check(fit: Sequence[Series], calibration: Sequence[Series], window: int, share: float) -> None:
    enough_fit = _windows(fit, window) >= LEAST_FIT_WINDOWS
    if enough_fit and _windows(calibration, window) >= LEAST_CALIBRATION_WINDOWS:
        return
    least = int(max(LEAST_CALIBRATION_WINDOWS / share, (window + LEAST_FIT_WINDOWS) / (1.0 - share))) + 2
    raise NotEnoughData(
        f"Training with a window of {window} rows needs at least {least} consecutive normal rows of one entity.",
        hint="Give more rows, or choose a shorter window (training.window).",
    )


def _windows(series: Sequence[Series], window: int) -> int:
    return sum(max(len(one.values) - window + 1, 0) for one in series)
