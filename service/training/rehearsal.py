"""A labelled series through the code that serves, without its clock: batches of due windows, verdicts, episodes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from service.alerts.lifecycle.episodes import Episodes
from service.detectors.bundle import Bundle
from service.detectors.features.windows import carry_forward
from service.detectors.window_scorer import WindowScorer
from service.detectors.windowing.early_windows import MOST_EARLY, early_windows
from service.domain import F32, F64, I64, Alert, Mask, Series, Status, WindowBatch, phase_of
from service.rarity import rarity
from service.settings import Settings
from service.stream.window_buffers import due_mask

CHUNK = 2048  # windows per batch


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """The verdict on each test row: ``surprise``, ``level`` and ``claimed`` (-log10 of what is claimed, without its floor) float64,
    ``anomaly`` (an anomaly begins) bool, all (rows,).

    ``due``: int64, the test rows at which a window was scored (other rows have the values of the last one before); ``alerted``:
    bool (rows,), rows under a fired alert; ``fired``: how many alerts fired; ``seconds``: of scoring, per window.
    """

    surprise: F64
    level: F64
    claimed: F64
    anomaly: Mask
    due: I64
    alerted: Mask
    fired: int
    seconds: float


async def score_series(bundle: Bundle, settings: Settings, before: Series, test: Series) -> Scored:
    """Score every due window of ``test`` in row order, as serving does; the rows of ``before`` only fill the first windows."""
    detector = WindowScorer(bundle, settings.detection, min_coverage=settings.stream.min_coverage, bounds=settings.alerts.bounds)
    episodes = Episodes(settings.alerts, settings.config_hash())
    rows = len(test.values)
    history = min(len(before.values), bundle.window + bundle.stride - 1)
    values = np.concatenate([before.values[len(before.values) - history :], test.values])
    ends = due_rows(bundle, test.entity, test.start_row - history, values)
    ends = ends[
        np.searchsorted(ends, history - bundle.stride) :
    ]  # the last window before the test gives its first rows their score
    surprise, level, claims, flags = np.zeros((4, len(ends)))
    alerts: list[Alert] = []
    seconds = 0.0
    try:
        for start, batch in batches(bundle, test, values, ends, history):
            began = time.perf_counter()
            verdicts = list(await detector.detect(batch))
            seconds += time.perf_counter() - began
            alerts += episodes.observe(verdicts)
            chosen = slice(start, start + len(verdicts))
            surprise[chosen] = [one.surprise for one in verdicts]
            level[chosen] = [one.level for one in verdicts]
            claims[chosen] = [rarity(one.surprise, *one.exceeded) for one in verdicts]
            flags[chosen] = [one.is_onset for one in verdicts]
    finally:
        detector.close()
    at = ends - history  # test row of each window; negative for the one before the test
    newest_window = np.maximum(np.searchsorted(at, np.arange(rows), side="right") - 1, 0)
    anomaly = np.zeros(rows, np.bool_)
    anomaly[at[(flags > 0) & (at >= 0)]] = True
    alerted, fired = _alerted(alerts, bundle.schema.interval_ms, test.start_row, rows)
    return Scored(
        surprise=surprise[newest_window],
        level=level[newest_window],
        claimed=claims[newest_window],
        anomaly=anomaly,
        due=at[at >= 0],
        alerted=alerted,
        fired=fired,
        seconds=seconds / max(len(ends), 1),
    )


def due_rows(bundle: Bundle, entity: str, first_row: int, values: F32) -> I64:
    """Int64: the indices in ``values`` at which a full window is due; ``values``: consecutive rows, the first is grid row
    ``first_row``.
    """
    phase = first_row + phase_of(entity)
    due = (np.arange(len(values)) + phase) % bundle.stride == 0
    rule = early_windows(bundle.scaler, bundle.early_change)
    if rule is not None:
        filled, mask = carry_forward(values)
        table = rule.tables.get(entity, 0)
        due = due_mask(filled, mask, phase, table, bundle.stride, rule.inverse, rule.threshold, MOST_EARLY)
    places: I64 = np.flatnonzero(due)
    return places[np.searchsorted(places, bundle.window - 1) :]


def batches(bundle: Bundle, test: Series, values: object, ends: I64, history: int) -> Iterator[tuple[int, WindowBatch]]:
    """The windows of ``values`` that end at the indices ``ends``, in batches of ``CHUNK``, each with the index of its first window.

    ``values``: float32 (rows, dims), ``history`` rows and then those of ``test``.
    """
    filled, mask = carry_forward(np.asarray(values, np.float32))
    views = np.lib.stride_tricks.sliding_window_view(filled, bundle.window, axis=0).swapaxes(1, 2)
    masks = np.lib.stride_tricks.sliding_window_view(mask, bundle.window, axis=0).swapaxes(1, 2)
    for start in range(0, len(ends), CHUNK):
        chosen = ends[start : start + CHUNK]
        none = np.full(len(chosen), -1, np.int64)
        yield (
            start,
            WindowBatch(
                schema=bundle.schema,
                values=views[chosen - bundle.window + 1],
                mask=masks[chosen - bundle.window + 1],
                entities=(test.entity,) * len(chosen),
                end_rows=chosen - history + test.start_row,
                topic="",
                partitions=none,
                first_offsets=none,
                last_offsets=none,
                labels=({},) * len(chosen),
            ),
        )


def _alerted(alerts: Sequence[Alert], interval_ms: int, first_row: int, rows: int) -> tuple[Mask, int]:
    """Which test rows lie under an alert that fired, from its start to its end, and how many alerts fired."""
    newest: dict[str, Alert] = {alert.alert_id: alert for alert in alerts}
    under = np.zeros(rows, np.bool_)
    fired = [alert for alert in newest.values() if alert.fired_at is not None]
    for alert in fired:
        start = alert.started_at // interval_ms - first_row
        stop = rows if alert.status is not Status.RESOLVED or alert.ended_at is None else alert.ended_at // interval_ms - first_row
        under[max(start, 0) : max(stop, 0) + 1] = True
    return under, len(fired)
