"""The two linear residual models."""

from __future__ import annotations

import numpy as np
import pytest

from service.detectors.features.windows import Features
from service.detectors.members.residual import ForecastDetector, PcaResidualDetector
from service.domain import F32, F64
from service.errors import NotEnoughData


def windows(rows: F32, window: int = 30) -> Features:
    return Features(rows, np.arange(window, len(rows) + 1), window)


def rotating(rows: int, dims: int = 5, seed: int = 0) -> F32:
    """A noisy rotation seen through ``dims`` metrics: each row is a linear function of the one before."""
    rng = np.random.default_rng(seed)
    turn = np.arange(rows) * 0.3
    hidden = np.stack([np.sin(turn), np.cos(turn)], axis=1)
    mix = np.random.default_rng(99).standard_normal((2, dims))
    return (hidden @ mix + 0.02 * rng.standard_normal((rows, dims))).astype(np.float32)


def test_forecast_error_equals_one_written_out() -> None:
    train, new = rotating(500), rotating(120, seed=1)
    detector = ForecastDetector(lags=2, ridge=1.0, smooth=4, floor=0.001)
    detector.fit(windows(train))

    def pairs(
        rows: F32,
    ) -> tuple[F64, F64]:
        wide = np.concatenate([rows[1:-1], rows[:-2], np.ones((len(rows) - 2, 1))], axis=1).astype(np.float64)
        return wide, rows[2:].astype(np.float64)

    given, now = pairs(train[27:])  # the rows the windows of 30 end on, with two rows before each
    weights = np.linalg.solve(given.T @ given + np.eye(given.shape[1]), given.T @ now)
    error = np.sqrt(((now - given @ weights) ** 2).mean(0))
    given, now = pairs(new)
    misses = (np.abs(now - given @ weights) / error).mean(1)
    expected = np.convolve(misses, np.full(4, 0.25), mode="valid")[-91:]
    np.testing.assert_allclose(detector.score(windows(new)), expected, rtol=1e-3)


def test_forecast_sees_a_break_in_the_rhythm_and_blames_the_metric() -> None:
    detector = ForecastDetector(smooth=10)
    detector.fit(windows(rotating(1000)))
    new = rotating(300, seed=2)
    new[200:, 2] = new[200 - 7 : 293, 2]  # one metric falls seven rows behind
    scores = detector.score(windows(new))
    assert scores[175:].min() > scores[:170].max()
    assert detector.attribute(windows(new))[200].argmax() == 2


def test_pca_residual_is_small_on_the_learned_plane_and_blames_what_leaves_it() -> None:
    detector = PcaResidualDetector(explained=0.9)
    detector.fit(windows(rotating(1000)))
    normal, off = rotating(300, seed=3), rotating(300, seed=3)
    off[150:, 4] += 3.0
    assert detector.score(windows(off))[-1] > 2 * detector.score(windows(normal)).max()
    assert detector.attribute(windows(off))[-1].argmax() == 4


@pytest.mark.parametrize("kind", [PcaResidualDetector, ForecastDetector])
def test_round_trip_constants_and_errors(kind: type[PcaResidualDetector] | type[ForecastDetector]) -> None:
    detector = kind()
    with pytest.raises(RuntimeError, match="not fitted"):
        detector.score(windows(rotating(60)))
    with pytest.raises(NotEnoughData, match="at least 64"):
        detector.fit(windows(rotating(60)))
    rows = rotating(400, dims=1)
    rows = np.concatenate([rows, np.zeros_like(rows)], axis=1)
    detector.fit(windows(rows))
    again = kind()
    again.restore(*detector.state())
    new = windows(rows[:200] + np.float32(0.5))
    assert np.isfinite(detector.score(new)).all()
    assert np.array_equal(detector.score(new), again.score(new))
    assert detector.attribute(new).shape == (171, 2)
    alone = np.concatenate([again.score(new.take(slice(i, i + 1))) for i in range(0, 171, 10)])
    np.testing.assert_allclose(alone, detector.score(new)[::10], rtol=1e-4)
