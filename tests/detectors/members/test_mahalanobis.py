"""The whitened distance: what it measures, what it survives, and who it blames."""

from __future__ import annotations

import numpy as np
import pytest

from service.detectors.features import whitening
from service.detectors.features.windows import Features
from service.detectors.members.mahalanobis import MahalanobisDetector
from service.domain import F32, F64
from service.errors import NotEnoughData


def windows(rows: F32, window: int = 30) -> Features:
    return Features(rows, np.arange(window, len(rows) + 1), window)


def correlated(rows: int, dims: int = 6, seed: int = 0) -> F32:
    rng = np.random.default_rng(seed)
    hidden = rng.standard_normal((rows, 2))
    mixed = hidden @ np.random.default_rng(99).standard_normal((2, dims)) + 0.1 * rng.standard_normal((rows, dims))
    return mixed.astype(np.float32)


def test_equals_a_whitening_written_out() -> None:
    train, new = correlated(600), correlated(200, seed=1)
    detector = MahalanobisDetector(spans=(5, 20), prototypes=1)
    detector.fit(windows(train))
    scores = detector.score(windows(new))

    def statistics(rows: F32) -> F64:
        out = []
        for end in range(30, len(rows) + 1):
            means = [rows[end - span : end].mean(0) for span in (5, 20)]
            ranges = [np.ptp(rows[end - span : end], axis=0) for span in (5, 20)]
            deviations = [rows[end - span : end].std(0) for span in (5, 20)]
            still = np.log(np.ptp(rows[end - 25 : end], axis=0) + 0.05)
            out.append(np.concatenate([rows[end - 1], *means, *ranges, *deviations, still]))
        return np.array(out, np.float64)

    raw = statistics(train)
    centre, scale = raw.mean(0), np.maximum(raw.std(0), 0.3)
    standard = (raw - centre) / scale
    covariance = np.cov(standard.T, bias=True)
    samples = standard - standard.mean(0)
    # Ledoit & Wolf (2004), from the paper's definitions.
    width = len(covariance)
    level = np.trace(covariance) / width
    distance = np.sum((covariance - level * np.eye(width)) ** 2)
    noise = min(sum(np.sum((np.outer(x, x) - covariance) ** 2) for x in samples) / len(samples) ** 2, distance)
    shrunk = covariance + noise / distance * (level * np.eye(width) - covariance)
    values, axes = np.linalg.eigh(shrunk)
    ridge = 0.1 * (1 + 0.25 * width / (600 / 30))  # 600 rows are worth twenty windows
    whitened = ((statistics(new) - centre) / scale) @ axes / np.sqrt(values + ridge * level)
    distance_per_axis = np.sqrt(np.square(whitened).mean(1))
    low, high = train.min(0), train.max(0)
    outside = np.maximum(np.maximum(low - new, new - high), 0) / (high - low)
    assert outside[29:].any()
    expected = distance_per_axis + 10 * outside[29:].mean(1)
    np.testing.assert_allclose(scores, expected, rtol=2e-3)


def test_a_broken_correlation_outscores_everything_normal_and_is_blamed() -> None:
    detector = MahalanobisDetector()
    detector.fit(windows(correlated(2000)))
    normal = correlated(300, seed=2)
    broken = normal.copy()
    broken[150:, 3] = -broken[150:, 3]  # within its usual range, against its usual correlation
    scores = detector.score(windows(broken))
    assert np.mean(scores[160:] > np.quantile(detector.score(windows(normal)), 0.99)) > 0.8
    attributed = detector.attribute(windows(broken))[200:].mean(0)
    assert attributed.argmax() == 3


def test_shared_axes_change_little_when_dropped_axes_are_alike() -> None:
    rng = np.random.default_rng(3)
    train = rng.standard_normal((3000, 20)).astype(np.float32)
    full, short = MahalanobisDetector(), MahalanobisDetector(most_axes=100)
    full.fit(windows(train))
    short.fit(windows(train))
    shifted = train[:500] + np.linspace(0, 3, 500, dtype=np.float32)[:, None]
    assert np.corrcoef(full.score(windows(shifted)), short.score(windows(shifted)))[0, 1] > 0.9
    assert (short.attribute(windows(shifted)) >= 0).all()


def test_constant_columns_and_a_single_metric() -> None:
    still = np.zeros((300, 3), np.float32)
    detector = MahalanobisDetector()
    detector.fit(windows(still))
    moved = still.copy()
    moved[200:, 1] = 1.0
    scores = detector.score(windows(moved))
    assert np.isfinite(scores).all()
    assert scores[-1] > scores[0]
    assert detector.attribute(windows(moved))[-1].argmax() == 1
    alone = MahalanobisDetector()
    alone.fit(windows(correlated(300, dims=1)))
    assert alone.score(windows(correlated(100, dims=1))).shape == (71,)


def test_a_metric_that_stands_still_is_far_from_normal() -> None:
    detector = MahalanobisDetector()
    detector.fit(windows(correlated(2000, dims=8)))
    usual = detector.score(windows(correlated(1000, dims=8, seed=3)))
    frozen = correlated(1000, dims=8, seed=4)
    frozen[600:, 5] = frozen[600, 5]
    fault = windows(frozen)
    assert detector.score(fault)[-1] > 1.5 * np.quantile(usual, 0.99)
    assert detector.attribute(fault)[-1].argmax() == 5


def test_axes_are_found_where_the_quick_way_to_a_few_of_them_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    original = whitening.__dict__["eigh"]

    def failing(matrix: F64, *, subset_by_index: object = None, **rest: str) -> object:
        if subset_by_index is not None:
            raise np.linalg.LinAlgError("Internal Error.")
        return original(matrix, **rest)

    matrix = np.diag(np.arange(1.0, 7.0))
    quick = whitening.widest(matrix, 2)
    monkeypatch.setattr(whitening, "eigh", failing)
    values, axes = whitening.widest(matrix, 2)
    np.testing.assert_allclose(values, [5.0, 6.0])
    np.testing.assert_allclose(values, quick[0])
    np.testing.assert_allclose(np.abs(axes), np.abs(quick[1]), atol=1e-12)


def test_says_what_it_needs() -> None:
    with pytest.raises(NotEnoughData, match="at least 64"):
        MahalanobisDetector().fit(windows(correlated(50)))
    with pytest.raises(RuntimeError, match="not fitted"):
        MahalanobisDetector().score(windows(correlated(50)))


def test_state_round_trip_is_bit_equal_and_batches_agree() -> None:
    detector = MahalanobisDetector(most_axes=20)
    detector.fit(windows(correlated(400)))
    again = MahalanobisDetector()
    again.restore(*detector.state())
    new = windows(correlated(200, seed=5))
    assert np.array_equal(detector.score(new), again.score(new))
    one_by_one = np.concatenate([again.score(new.take(slice(i, i + 1))) for i in range(len(new))])
    np.testing.assert_allclose(one_by_one, detector.score(new), rtol=1e-5)


def test_two_regimes_are_both_normal_and_what_lies_between_is_not() -> None:
    rng = np.random.default_rng(8)
    regime = np.repeat([0, 1, 0, 1, 0, 1], 500)[:, None] * np.array([8.0, -8.0, 8.0, 0.0])
    rows = (regime + 0.002 * rng.standard_normal((3000, 4))).astype(np.float32)
    single, several = MahalanobisDetector(spans=(5,), prototypes=1), MahalanobisDetector(spans=(5,), prototypes=16)
    single.fit(windows(rows))
    several.fit(windows(rows))
    between = (np.array([4.0, -4.0, 4.0, 0.0]) + 0.002 * rng.standard_normal((40, 4))).astype(np.float32)
    assert several.score(windows(between))[-1] > np.quantile(several.score(windows(rows)), 0.95)
    assert single.score(windows(between))[-1] < np.quantile(single.score(windows(rows)), 0.95)


@pytest.mark.parametrize("most_axes", [8, 5, 3])
def test_turned_back_in_one_product_or_two_is_the_same(most_axes: int) -> None:
    rng = np.random.default_rng(3)
    columns = (rng.standard_normal((500, 8)) @ rng.standard_normal((8, 8)) + 5.0).astype(np.float32)
    fitted = whitening.Whitening(most_axes=most_axes).fit(columns, 300.0)
    whole = fitted.rotate_back(fitted.transform(columns))
    assert whole.std() > 0.5
    np.testing.assert_allclose(fitted.transform_symmetric(columns), whole, atol=1e-4)
    fitted.fit(2.0 * columns, 300.0)  # what was made of the former axes is gone
    np.testing.assert_allclose(fitted.transform_symmetric(columns), fitted.rotate_back(fitted.transform(columns)), atol=1e-4)


def test_the_less_there_was_to_learn_from_the_less_narrow_axes_count() -> None:
    columns = correlated(400).astype(np.float32)
    gains = [whitening.Whitening().fit(columns, independent).inverse for independent in (0.2, 2.0, 2000.0)]
    narrowest = [float(gain.max()) for gain in gains]
    assert narrowest[0] < 0.6 * narrowest[2]
    assert narrowest[0] < narrowest[1] < narrowest[2]
    np.testing.assert_allclose([gain.min() for gain in gains], gains[2].min(), rtol=0.3)  # the wide ones hardly notice


def test_columns_that_stand_still_ask_for_no_evidence() -> None:
    columns = correlated(400)
    padded = np.hstack([columns, np.zeros((400, 6), np.float32)])
    scarce, plenty = (whitening.Whitening().fit(padded, independent) for independent in (6.0, 6e6))
    # Six columns that move and six windows: the ridge of a tenth of the mean variance is a quarter higher.
    level = float(np.mean(np.var(padded.astype(np.float64), axis=0)))
    higher = 1 / np.square(scarce.inverse.astype(np.float64)) - 1 / np.square(plenty.inverse.astype(np.float64))
    np.testing.assert_allclose(higher, 0.25 * 0.1 * level, rtol=1e-3)
