"""The attribution: who is to blame, on planted faults."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service.detectors.features.attribution import MOST_JOINT, Attribution
from service.detectors.features.scaler import Scaler
from service.detectors.features.windows import Features
from service.domain import F32, Series

WINDOW = 100


def rows(count: int, dims: int = 20, seed: int = 0) -> F32:
    """Metrics correlated in groups of five, in odd units."""
    rng = np.random.default_rng(seed)
    shared = np.repeat(rng.standard_normal((count, dims // 5)), 5, axis=1)
    return ((shared + 0.2 * rng.standard_normal((count, dims))) * np.geomspace(0.01, 100, dims)).astype(np.float32)


def planted(values: F32, metric: int, kind: str, start: int) -> F32:
    out = values.copy()
    if kind == "offset":
        out[start:, metric] += 5 * np.median(np.abs(values[:, metric] - np.median(values[:, metric])))
    elif kind == "freeze":
        out[start:, metric] = out[start, metric]
    else:  # within its usual range, no longer correlated with its group
        out[start:, metric] = np.roll(out[:, metric], len(out) // 2)[start:]
    return out


def windows(scaler: Scaler, values: F32) -> Features:
    return scaler.windows([Series("a", 0, values)], WINDOW)


@pytest.mark.parametrize("kind", ["offset", "freeze", "correlation"])
def test_the_planted_metric_comes_first(kind: str) -> None:
    train, new = rows(2000), rows(1000, seed=1)
    scaler = Scaler().fit([Series("a", 0, train)])
    attribution = Attribution().fit(windows(scaler, train))
    for metric in range(0, 20, 3):
        shares = attribution.shares(windows(scaler, planted(new, metric, kind, 900)))[-1]
        assert shares.argmax() == metric, (metric, shares)
    assert shares.sum() == pytest.approx(1)


def test_neighbours_get_no_share_of_a_metric_that_departed_from_them() -> None:
    train, new = rows(2000), rows(1000, seed=1)
    scaler = Scaler().fit([Series("a", 0, train)])
    shares = Attribution().fit(windows(scaler, train)).shares(windows(scaler, planted(new, 6, "offset", 900)))[-1]
    assert shares[[5, 7, 8, 9]].max() < 0.5 * shares[6]


def test_of_many_metrics_each_is_attributed_by_itself() -> None:
    dims = (MOST_JOINT // 7 // 5 + 1) * 5
    train = rows(400, dims)
    scaler = Scaler().fit([Series("a", 0, train)])
    attribution = Attribution().fit(windows(scaler, train))
    shares = attribution.shares(windows(scaler, planted(rows(400, dims, seed=1), 9, "offset", 250)))
    assert shares[-1].argmax() == 9


def test_a_metric_without_values_gets_no_share() -> None:
    train, new = rows(2000), rows(300, seed=1)
    scaler = Scaler().fit([Series("a", 0, train)])
    attribution = Attribution().fit(windows(scaler, train))
    new[150:, 4] = np.nan  # carried forward, it looks frozen
    assert attribution.shares(windows(scaler, new))[-1, 4] == 0.0


def test_round_trips_to_the_bit_and_survives_what_never_moved() -> None:
    train = rows(500)
    train[:, 3], train[:, 4] = 7.0, np.nan
    scaler = Scaler().fit([Series("a", 0, train)])
    seen = windows(scaler, train)
    attribution = Attribution().fit(seen)
    shares = attribution.shares(seen)
    assert np.isfinite(shares).all()
    np.testing.assert_array_equal(Attribution().restore(*attribution.state()).shares(seen), shares)


@pytest.mark.data
@pytest.mark.parametrize(("kind", "least"), [("offset", 0.9), ("freeze", 0.9), ("correlation", 0.85)])
def test_planted_faults_in_real_series_are_among_the_first_three(data_dir: Path, kind: str, least: float) -> None:
    """Metrics that move; for a broken correlation those closely correlated with another. Another stretch of the metric takes its
    place.
    """
    found = []
    for file in sorted(data_dir.glob("ASD/*.npz"))[:3] + sorted(data_dir.glob("JumpStarter2/*.npz"))[:3]:
        with np.load(file) as arrays:
            train = arrays["train"]
        fit, rest = train[: len(train) * 7 // 10], train[len(train) * 7 // 10 :]
        scaler = Scaler().fit([Series("a", 0, fit)])
        attribution = Attribution().fit(windows(scaler, fit))
        rng = np.random.default_rng(0)
        for _ in range(20):
            metric = int(rng.choice(_movers(fit, rest, related=kind == "correlation")))
            at = int(rng.integers(0, len(rest) - 2 * WINDOW))
            stretch = planted(rest[at : at + 2 * WINDOW], metric, kind, WINDOW)
            if kind == "correlation":
                other = int(rng.integers(0, len(rest) - WINDOW))
                stretch[WINDOW:, metric] = rest[other : other + WINDOW, metric]
            shares = attribution.shares(windows(scaler, stretch))[-1]
            found.append(metric in np.argsort(-shares)[:3])
    assert np.mean(found) >= least


def _movers(fit: F32, rest: F32, *, related: bool) -> list[int]:
    shared = np.abs(np.corrcoef(fit.T + 1e-9 * np.random.default_rng(0).standard_normal(fit.T.shape)))
    np.fill_diagonal(shared, 0)
    return [
        j
        for j in range(fit.shape[1])
        if min((np.diff(part[:, j]) != 0).mean() for part in (fit, rest)) > 0.8
        and np.median(np.abs(fit[:, j] - np.median(fit[:, j]))) > 0
        and (not related or shared[j].max() > 0.8)
    ]
