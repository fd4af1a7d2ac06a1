"""The statistical three: their arrays score as scikit-learn does, and their votes add up."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.covariance import MinCovDet
from sklearn.ensemble import IsolationForest
from sklearn.svm import OneClassSVM

from service.detectors.features.statistics import WindowStatistics, principal_axes
from service.detectors.features.windows import Features
from service.detectors.members import statistical
from service.detectors.members.isolation_forest import expected_depth, flatten_forest, score_forest
from service.detectors.members.statistical import StatisticalAnomalyDetector
from service.domain import F32


def rows(count: int, dims: int = 5, seed: int = 0) -> F32:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((count, 2)) @ rng.standard_normal((2, dims)) + rng.standard_normal((count, dims))).astype(
        np.float32
    )


def windows(values: F32, window: int = 20) -> Features:
    return Features(values, np.arange(window, len(values) + 1), window)


@pytest.mark.parametrize("samples", [60, 256, 700])
def test_the_flattened_forest_scores_as_scikit_learn(samples: int) -> None:
    train, new = rows(samples), rows(500, seed=1) * 3
    forest = IsolationForest(n_estimators=50, max_features=0.6, random_state=0).fit(train)
    np.testing.assert_allclose(score_forest(flatten_forest(forest), new), -forest.score_samples(new), atol=1e-5)


def test_expected_depth_is_that_of_an_unsuccessful_search() -> None:
    np.testing.assert_allclose(expected_depth(np.array([0, 1, 2, 256])), [0, 0, 1, 10.2448], atol=1e-4)


def test_the_envelope_and_the_svm_score_as_scikit_learn() -> None:
    train, new = rows(600), rows(300, seed=1) * 2
    detector = StatisticalAnomalyDetector()
    svm = OneClassSVM(nu=detector.nu, gamma="scale").fit(train)
    model = statistical._fit_svm(train, detector)
    np.testing.assert_allclose(statistical._score_svm(model, new), -svm.decision_function(new), rtol=1e-4, atol=1e-4)
    # The envelope is trained with a jitter of a tenth of the mean spread, so it is held against one trained on the same.
    noise = np.random.default_rng(detector.seed).standard_normal(train.shape)
    jitter = 0.1 * np.sqrt(np.var(train.astype(np.float64), axis=0).mean() + 1e-3)
    envelope = MinCovDet(random_state=detector.seed).fit(train.astype(np.float64) + jitter * noise)
    scores = statistical._score_envelope(statistical._fit_envelope(train, detector), new)
    np.testing.assert_allclose(scores, envelope.mahalanobis(new.astype(np.float64)), rtol=1e-4)


def test_the_score_is_the_weighted_mean_of_the_votes() -> None:
    detector = StatisticalAnomalyDetector()
    detector.fit(windows(rows(500)))
    seen = windows(rows(100, seed=2))
    votes = detector.votes(seen)
    expected = 0.4 * votes["isolation_forest"] + 0.3 * votes["elliptic_envelope"] + 0.3 * votes["one_class_svm"]
    np.testing.assert_allclose(detector.score(seen), expected)


@pytest.mark.parametrize("vote", ["isolation_forest", "elliptic_envelope", "one_class_svm"])
def test_any_of_the_three_works_alone(vote: str) -> None:
    detector = StatisticalAnomalyDetector(weights={vote: 1.0})
    whole = rows(600)  # of one mixture: another seed would be strange in itself
    detector.fit(windows(whole[:500]))
    calm, odd = windows(whole[500:]), windows(whole[500:] * 8)
    assert detector.score(odd).mean() > np.quantile(detector.score(calm), 0.95)
    assert list(detector.votes(calm)) == [vote]


def test_an_unknown_vote_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="random_guess"):
        StatisticalAnomalyDetector(weights={"random_guess": 1.0})


def test_wide_data_are_reduced_before_covariance_and_kernels() -> None:
    detector = StatisticalAnomalyDetector()
    detector.fit(windows(rows(300, dims=80)))
    model = detector.state()[1]
    assert model["elliptic_envelope/location"].shape == (statistical.MOST_DIMENSIONS,)
    assert model["one_class_svm/vectors"].shape[1] == statistical.MOST_DIMENSIONS


@pytest.mark.parametrize("width", [30, 600])
def test_principal_axes_are_orthonormal_and_widest_first(width: int) -> None:
    rng = np.random.default_rng(0)
    columns = (rng.standard_normal((800, 4)) * [20, 10, 5, 3] @ rng.standard_normal((4, width))).astype(np.float32)
    columns += 0.1 * rng.standard_normal(columns.shape).astype(np.float32)
    centre, axes, variances = principal_axes(columns, 4)
    np.testing.assert_allclose(axes.T @ axes, np.eye(4), atol=1e-4)
    assert (np.diff(variances) < 0).all()
    np.testing.assert_allclose(((columns - centre) @ axes).var(axis=0), variances, rtol=2e-2)
    assert variances.sum() > 0.99 * columns.var(axis=0).sum()


def test_statistics_are_last_means_and_ranges_standardised_with_a_floor() -> None:
    values = rows(200)
    values[:, 3] *= 1e-3  # hardly moves: its scale is floored at 0.3
    seen = windows(values)
    statistics = WindowStatistics((5, 20, 150))
    columns = statistics.fit(seen).transform(seen)
    raw = np.concatenate([seen.last, seen.mean(5), seen.mean(20), seen.range(5), seen.range(20)], axis=1)
    expected = (raw - raw.mean(axis=0)) / np.maximum(raw.std(axis=0), 0.3)
    np.testing.assert_allclose(columns, np.clip(expected, -10, 10), atol=1e-4)
    np.testing.assert_allclose(statistics.per_metric(columns, 5)[:, 2], columns[:, 2::5].sum(axis=1), rtol=1e-5)


def test_a_metric_that_never_moved_is_at_no_distance_and_not_at_one_of_rounding() -> None:
    values = np.concatenate([rows(600), np.full((600, 3), 0.7, np.float32)], axis=1)
    detector = StatisticalAnomalyDetector()
    detector.fit(windows(values[:500]))
    parts = detector.attribute(windows(values[500:]))
    assert (parts[:, 5:] == 0.0).all()
    assert (parts[:, :5] > 0.0).all()
