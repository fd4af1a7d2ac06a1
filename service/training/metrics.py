"""How good scores and alerts are, compared with labels. Pure functions of arrays; no point adjustment.

Labels are one per row (1 = anomalous), scores higher-is-stranger, alerts one flag per row. An event is a maximal run of
anomalous rows, given as ``[start, stop)``. Point-adjusted figures are left out: they give random scores an F1 of 0.93 on real
series (on the problem: Kim et al., AAAI 2022).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaincinv, gammaln

from service.domain import F64, I64


def events(flags: ArrayLike) -> I64:
    """Int64 (k, 2): start and stop (exclusive) of every maximal run of true rows in ``flags`` (n,)."""
    on = np.asarray(flags).astype(bool).astype(np.int8)
    edges = np.diff(on, prepend=0, append=0)
    return np.stack([np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)], axis=1).astype(np.int64)


def _checked(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], F64]:
    truth = np.asarray(labels).astype(bool)
    values = np.asarray(scores, dtype=np.float64)
    if truth.ndim != 1 or truth.shape != values.shape:
        raise ValueError(f"labels and scores must be two vectors of one length, not {truth.shape} and {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("scores must be finite")
    return truth, values


def auc_pr(labels: ArrayLike, scores: ArrayLike) -> float:
    """Average precision: the mean over anomalous rows of the precision at their score; ties share one threshold.

    NaN when no row is anomalous. Raises ``ValueError`` when the shapes differ or a score is not finite.
    """
    truth, values = _checked(labels, scores)
    if not truth.any():
        return math.nan
    order = np.argsort(-values, kind="stable")
    last = np.append(np.diff(values[order]) != 0, True)  # the end of each run of equal scores
    hits = np.cumsum(truth[order])[last]
    flagged = np.flatnonzero(last) + 1.0
    return float(np.sum(np.diff(hits, prepend=0) * hits / flagged) / hits[-1])


def vus_pr(labels: ArrayLike, scores: ArrayLike, *, window: int = 100, thresholds: int = 250) -> float:
    """Volume under the precision-recall surface, as TSB-AD defines it (Liu & Paparrizos, NeurIPS 2024).

    For every buffer width w = 0..``window`` the labels fade out as sqrt(1 - d/w) over w // 2 rows on both sides of each event;
    recall is weighted by the share of (buffered) events with any row above the threshold; the area under precision-recall over
    ``thresholds`` score quantiles is averaged over w. One sort serves every threshold and width: a row's bucket is the first
    threshold it reaches, so true positives are cumulative sums over buckets, and an event is touched from the bucket of its
    highest score on. NaN when no row is anomalous. O(n log n + window · (rows near events + thresholds)).
    """
    truth, values = _checked(labels, scores)
    spans = events(truth)
    if not len(spans):
        return math.nan
    rows = len(truth)
    ascending = np.sort(values)
    levels = ascending[::-1][np.linspace(0, rows - 1, thresholds).astype(np.int64)]
    bucket = np.searchsorted(-levels, -values, side="left")
    flagged = rows - np.searchsorted(ascending, levels, side="left").astype(np.float64)
    inside = np.cumsum(np.bincount(bucket[truth], minlength=thresholds))
    near = _Surroundings.of(truth, spans, window // 2)
    buffered_bucket = bucket[near.rows]
    areas = np.empty(window + 1)
    touched = np.empty(0)
    for width in range(window + 1):
        reach = width // 2
        faded = np.cumsum(np.bincount(buffered_bucket, weights=near.fading(width), minlength=thresholds))
        if width % 2 == 0:  # the reach, and with it the buffered events, changes every second width
            touched = _share_touched(spans, bucket, reach, thresholds)
        found = inside + faded
        recall = np.minimum(found / (truth.sum() + faded / 2), 1.0) * touched
        areas[width] = np.dot(np.diff(recall, prepend=0.0), found / flagged)
    return float(areas.mean())


class _Surroundings(NamedTuple):
    """Normal rows within reach of an event, with the distances to the nearest two event rows on each side."""

    rows: I64
    before: I64  # to the nearest event that ended before
    after: I64  # to the nearest event that starts after
    second: I64  # the smaller of the distances to the next nearest on either side

    @classmethod
    def of(cls, truth: NDArray[np.bool_], spans: I64, reach: int) -> _Surroundings:
        starts, lasts = spans[:, 0], spans[:, 1] - 1
        within = np.zeros(len(truth) + 1, dtype=np.int64)
        np.add.at(within, np.maximum(starts - reach, 0), 1)
        np.add.at(within, np.minimum(lasts + reach + 1, len(truth)), -1)
        rows = np.flatnonzero((np.cumsum(within)[:-1] > 0) & ~truth)
        far = np.iinfo(np.int64).max // 2
        ended = np.concatenate([[-far, -far], lasts])
        starting = np.concatenate([starts, [far, far]])
        left = np.searchsorted(lasts, rows) + 1  # index into ``ended`` of the last event that ended before the row
        right = np.searchsorted(starts, rows)
        second = np.minimum(rows - ended[left - 1], starting[right + 1] - rows)
        return cls(rows, rows - ended[left], starting[right] - rows, second)

    def fading(self, width: int) -> F64:
        """The buffered label of each row: contributions of every event within reach, added, at most 1."""
        if width == 0:
            return np.zeros(len(self.rows))
        reach = width // 2
        total = np.zeros(len(self.rows))
        for distance in (self.before, self.after, self.second):
            total += np.where(distance <= reach, np.sqrt(np.maximum(1.0 - distance / width, 0.0)), 0.0)
        return np.minimum(total, 1.0)  # any two contributions exceed 1, so events beyond the second nearest do not matter


def _share_touched(spans: I64, bucket: I64, reach: int, thresholds: int) -> F64:
    """Float64 (thresholds,): the share of buffered events (merged where buffers meet) with a row in a bucket up to each."""
    starts, lasts = spans[:, 0], spans[:, 1] - 1
    apart = lasts[:-1] + reach < starts[1:] - reach
    first = np.maximum(starts[np.append(True, apart)] - reach, 0)
    last = np.minimum(lasts[np.append(apart, True)] + reach, len(bucket) - 1)
    top = np.array([bucket[a : b + 1].min() for a, b in zip(first, last, strict=True)])
    return np.asarray(np.cumsum(np.bincount(top, minlength=thresholds)) / len(top), dtype=np.float64)


def event_recall(labels: ArrayLike, alerts: ArrayLike, *, within: int | None = None) -> float:
    """Share of events with an alerted row in them (in their first ``within`` rows, when given). NaN without events."""
    caught = _first_alert(labels, alerts)
    if not len(caught):
        return math.nan
    return float(np.mean(caught < (within if within is not None else np.iinfo(np.int64).max)))


def detection_delay(labels: ArrayLike, alerts: ArrayLike) -> float:
    """Mean rows from an event's start to the first alerted row in it, over the events caught. NaN when none is."""
    caught = _first_alert(labels, alerts)
    caught = caught[caught < np.iinfo(np.int64).max]
    return float(caught.mean()) if len(caught) else math.nan


def _first_alert(labels: ArrayLike, alerts: ArrayLike) -> I64:
    """Int64 (events,): rows from each event's start to its first alerted row; the largest int64 where there is none."""
    at = np.flatnonzero(np.asarray(alerts).astype(bool))
    spans = events(labels)
    padded = np.append(at, np.iinfo(np.int64).max)
    first = padded[np.searchsorted(at, spans[:, 0])]
    return np.where(first < spans[:, 1], first - spans[:, 0], np.iinfo(np.int64).max)


def event_precision(labels: ArrayLike, alerts: ArrayLike) -> float:
    """Share of alerts (maximal runs of alerted rows) that overlap an event. NaN without alerts."""
    truth = np.asarray(labels).astype(bool)
    runs = events(alerts)
    return float(np.mean([truth[a:b].any() for a, b in runs])) if len(runs) else math.nan


def false_positive_rate(labels: ArrayLike, alerts: ArrayLike) -> float:
    """Share of the normal rows that are alerted. NaN when no row is normal."""
    normal = ~np.asarray(labels).astype(bool)
    return float(np.asarray(alerts).astype(bool)[normal].mean()) if normal.any() else math.nan


def random_event_recall(labels: ArrayLike, alerted_rows: int, *, within: int | None = None) -> float:
    """The event recall expected of ``alerted_rows`` distinct rows drawn at random, to compare every event recall with.

    An event of length L is missed with probability C(n - L, k) / C(n, k). NaN without events.
    """
    spans = events(labels)
    if not len(spans):
        return math.nan
    rows, k = len(np.asarray(labels)), alerted_rows
    length = spans[:, 1] - spans[:, 0]
    free = rows - (length if within is None else np.minimum(length, within))
    possible = free >= k
    free = np.maximum(free, k)
    log_missed = gammaln(free + 1) - gammaln(free - k + 1) - gammaln(rows + 1) + gammaln(rows - k + 1)
    return float(np.mean(1.0 - np.where(possible, np.exp(log_missed), 0.0)))


class Rate(NamedTuple):
    """A number of events over an exposure, with an exact (Garwood) Poisson interval; ``low`` and ``high`` bound the rate."""

    number: int
    exposure: float
    rate: float
    low: float
    high: float


def poisson_rate(count: int, exposure: float, *, confidence: float = 0.95) -> Rate:
    """``count`` events in ``exposure`` units, as a rate with its exact interval. NaN rates when the exposure is zero."""
    if exposure <= 0:
        return Rate(count, exposure, math.nan, math.nan, math.nan)
    tail = (1.0 - confidence) / 2.0
    low = float(gammaincinv(count, tail)) if count else 0.0
    return Rate(count, exposure, count / exposure, low / exposure, float(gammaincinv(count + 1, 1.0 - tail)) / exposure)


class Reliability(NamedTuple):
    """One line of a reliability table: of ``rows`` normal rows, ``observed`` had p <= ``nominal``."""

    nominal: float
    observed: float
    rows: int
    supported: bool  # whether the calibration is long enough for this level (nominal >= 1 / n_eff)


def reliability_table(
    p: ArrayLike, *, effective: float, levels: Sequence[float] = (0.1, 0.03, 0.01, 0.003, 0.001, 0.0001)
) -> list[Reliability]:
    """How often normal rows fall below each nominal tail probability. ``p``: (n,), of normal rows; ``effective``: the n_eff of the
    calibration."""
    values = np.asarray(p, dtype=np.float64)
    return [
        Reliability(level, float((values <= level).mean()) if len(values) else math.nan, len(values), level * effective >= 1.0)
        for level in levels
    ]


FACTOR = 3.0  # a claim is right within it
EXPECTED_LEAST = 3.0  # of fewer rows than this, chance alone is more than the factor


def within_factor(line: Reliability) -> bool:
    """Whether normal rows are as rare as claimed, within ``FACTOR``. Where fewer than ``EXPECTED_LEAST`` rows are expected, whether
    the Poisson interval of those seen reaches into it."""
    expected = line.nominal * line.rows
    if expected <= 0.0:
        return True
    around = poisson_rate(round(line.observed * line.rows), expected)
    if expected < EXPECTED_LEAST:
        return around.low <= FACTOR and around.high >= 1.0 / FACTOR
    return 1.0 / FACTOR <= around.rate <= FACTOR


class Extent(NamedTuple):
    """How alerts overlap with events: ``covered``: share of event rows under an alert; ``outside``: share of alert rows in no
    event.
    """

    covered: float
    outside: float


def extent(labels: ArrayLike, alerted: ArrayLike) -> Extent:
    """Share of anomalous rows under an alert, and share of alerted rows outside events. NaN where the denominator is zero."""
    truth: NDArray[Any] = np.asarray(labels).astype(bool)
    on: NDArray[Any] = np.asarray(alerted).astype(bool)
    both = float((truth & on).sum())
    covered = both / truth.sum() if truth.any() else math.nan
    outside = 1.0 - both / on.sum() if on.any() else math.nan
    return Extent(float(covered), float(outside))
