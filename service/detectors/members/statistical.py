"""Isolation forest, elliptic envelope and one-class SVM over one distance per metric, combined by weighted votes.

The three cannot work on hundreds of correlated statistics. Principal components of these are the wrong summary: they keep what
varies most in normal data, and faults show in what hardly varies. So each metric becomes one number, the distance of its
whitened statistics from their mean, and the three get those numbers; with more than 64 metrics, the principal components of them.

Each of the three is trained by scikit-learn and scored from plain arrays (a test checks that both agree to 1e-5). Their
raw scores are not comparable, so a vote is the surprise (-log10 tail probability) of the raw score among windows that the
three were not trained on; the votes are weighted 0.4 / 0.3 / 0.3. Sources: Liu, Ting & Zhou 2008 (forest), Rousseeuw & Van Driessen
1999 (minimum covariance determinant, which the envelope uses), Schölkopf et al. 2001 (one-class SVM).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import MinCovDet
from sklearn.ensemble import IsolationForest
from sklearn.svm import OneClassSVM

from service.detectors.decision.calibration import LEAST_SCORES, Calibration
from service.detectors.features.statistics import WindowStatistics, arrays_under, evenly_spaced, principal_axes, require_windows
from service.detectors.features.whitening import Whitening
from service.detectors.features.windows import Features, split_tail
from service.detectors.members.isolation_forest import flatten_forest, score_forest
from service.domain import F32, F64
from service.progress import Progress, silent

Arrays = dict[str, NDArray[Any]]

LEAST_WINDOWS = 64
VOTES = {"isolation_forest": 0.4, "elliptic_envelope": 0.3, "one_class_svm": 0.3}
# Covariance and kernel methods grow with the square of the dimensions and of the rows: both are capped.
MOST_DIMENSIONS = 64
MOST_WHITENING_ROWS = 8000
MOST_ENVELOPE_ROWS = 4000
MOST_SVM_ROWS = 2000
# A smaller distance is rounding noise of a metric that never moved; trees would split on it, differently on every machine.
LEAST_DISTANCE = 1e-3


class StatisticalAnomalyDetector:
    """Isolation forest, elliptic envelope and one-class SVM; the score is the weighted mean of their surprises.

    Options: ``weights`` by name (``isolation_forest``, ``elliptic_envelope``, ``one_class_svm``; default 0.4, 0.3, 0.3), those
    not named are left out; ``spans``: numbers of newest rows over which means, ranges and standard deviations are taken;
    ``trees``: of the forest; ``nu``: of the SVM, the share of training windows that may lie outside its boundary;
    ``contamination``: the share of training windows that are taken to be unusual (0): the forest is fitted again without
    the oddest of them, the envelope's core holds the others only, and ``nu`` is at least that much;
    ``held_out_share``: the newest share of each training series, on which votes are calibrated; ``seed`` (default:
    ``training.seed``).

    Example: ``training: {detectors: {statistical: {weight: 1.0, weights: {isolation_forest: 1.0}}}}``
    """

    default_name = "statistical"
    # Training settings this family takes as options.
    takes = ("seed",)

    def __init__(
        self,
        *,
        name: str | None = None,
        weights: Mapping[str, float] | None = None,
        spans: Sequence[int] = (5, 25, 100),
        trees: int = 100,
        nu: float = 0.05,
        contamination: float = 0.0,
        held_out_share: float = 0.2,
        seed: int = 0,
    ) -> None:
        self.name = name or self.default_name
        self.weights = dict(VOTES if weights is None else weights)
        unknown = sorted(set(self.weights) - set(VOTES))
        if unknown or not self.weights:
            raise ValueError(f"{self.name}: weights may name {', '.join(VOTES)}; got {', '.join(unknown) or 'none'}")
        if not 0.0 <= contamination < 0.5:
            raise ValueError(f"{self.name}: contamination must be at least 0 and under 0.5; got {contamination:g}")
        self.trees = trees
        self.contamination = contamination
        self.nu = max(nu, contamination)
        self.held_out_share = held_out_share
        self.seed = seed
        self._statistics = WindowStatistics(spans, deviations=True)
        self._whitening = Whitening()
        self._reduction: Arrays = {}
        self._models: dict[str, Arrays] = {}
        self._scales: dict[str, Calibration] = {}

    def fit(self, features: Features, *, progress: Progress = silent) -> None:
        """Train on the older part of each series, calibrate the votes on the newest. Raises ``NotEnoughData`` under 64 windows."""
        require_windows(features, LEAST_WINDOWS, self.name)
        learn, check = split_tail(features, self.held_out_share)
        if len(check) < LEAST_SCORES:
            check = learn
        learned, held_out_windows = features.take(learn), features.take(check)
        columns = self._statistics.fit(learned).transform(learned)
        self._whitening.fit(evenly_spaced(columns, MOST_WHITENING_ROWS), learned.independent)
        distances = self._distances(columns, features.dims)
        self._reduction = {}
        if features.dims > MOST_DIMENSIONS:
            centre, axes, _ = principal_axes(distances, MOST_DIMENSIONS, self.seed)
            self._reduction = {"centre": centre, "axes": axes}
        points = self._reduce(distances)
        held_out = self._reduce(self._distances(self._statistics.transform(held_out_windows), features.dims))
        self._models, self._scales = {}, {}
        for done, vote in enumerate(self.weights):
            progress(self.name, done, len(self.weights), vote.replace("_", " "))
            self._models[vote] = _FIT[vote](points, self)
            scores = _SCORE[vote](self._models[vote], held_out)
            self._scales[vote] = Calibration(scores, held_out_windows.independent)
        progress(self.name, len(self.weights), len(self.weights), "fitted")

    def score(self, features: Features) -> F64:
        """Float64 (n,): the weighted mean of the votes' decades (``Calibration.decades``)."""
        points = self._points(features)
        total = np.zeros(len(points))
        for vote, weight in self.weights.items():
            total += weight * self._scales[vote].decades(_SCORE[vote](self._models[vote], points))
        return total / sum(self.weights.values())

    def votes(self, features: Features) -> dict[str, F64]:
        """Each vote's own tail probability in decades, float64 (n,)."""
        points = self._points(features)
        return {vote: self._scales[vote].decades(_SCORE[vote](self._models[vote], points)) for vote in self.weights}

    def attribute(self, features: Features) -> F64:
        """Float64 (n, dims): each metric's squared distance, which is the input of all three.

        Trees and kernels have no exact attribution that is cheap to compute.
        """
        self._fitted()
        return np.square(self._distances(self._statistics.transform(features), features.dims).astype(np.float64))

    def _points(self, features: Features) -> F32:
        self._fitted()
        return self._reduce(self._distances(self._statistics.transform(features), features.dims))

    def _distances(self, columns: F32, dims: int) -> F32:
        """float32 (n, dims): root mean square of each metric's whitened statistics."""
        whitened = self._whitening.transform_symmetric(columns)
        distances: F32 = np.sqrt(np.square(whitened).reshape(len(whitened), -1, dims).mean(axis=1))
        distances[distances < LEAST_DISTANCE] = 0.0
        return distances

    def _reduce(self, columns: F32) -> F32:
        if not self._reduction:
            return columns
        return (columns - self._reduction["centre"]) @ self._reduction["axes"]

    def _fitted(self) -> None:
        if not self._models:
            raise RuntimeError(f"the {self.name} detector is not fitted")

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Weights, and every model as plain arrays."""
        self._fitted()
        statistics, arrays = self._statistics.state()
        arrays = {f"statistics/{key}": value for key, value in arrays.items()}
        whitening, axes = self._whitening.state()
        arrays |= {f"whitening/{key}": value for key, value in axes.items()}
        arrays |= {f"reduction/{key}": value for key, value in self._reduction.items()}
        scales = {}
        for vote, model in self._models.items():
            arrays |= {f"{vote}/{key}": value for key, value in model.items()}
            scales[vote], kept = self._scales[vote].state()
            arrays |= {f"{vote}-scale/{key}": value for key, value in kept.items()}
        return {"weights": self.weights, "statistics": statistics, "whitening": whitening, "scales": scales}, arrays

    def restore(self, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """The inverse of ``state``."""
        self.weights = {str(vote): float(weight) for vote, weight in settings["weights"].items()}
        self._statistics.restore(settings["statistics"], arrays_under(arrays, "statistics"))
        self._whitening.restore(settings["whitening"], arrays_under(arrays, "whitening"))
        self._reduction = arrays_under(arrays, "reduction")
        self._models = {vote: arrays_under(arrays, vote) for vote in self.weights}
        self._scales = {
            vote: Calibration.restored(settings["scales"][vote], arrays_under(arrays, f"{vote}-scale")) for vote in self.weights
        }


def _fit_forest(points: F32, settings: StatisticalAnomalyDetector) -> Arrays:
    forest = IsolationForest(n_estimators=settings.trees, random_state=settings.seed).fit(points)
    if settings.contamination:
        usual = forest.score_samples(points)
        forest.fit(points[usual >= np.quantile(usual, settings.contamination)])
    return flatten_forest(forest)


def _fit_envelope(points: F32, settings: StatisticalAnomalyDetector) -> Arrays:
    # MinCovDet is what EllipticEnvelope fits (Rousseeuw & Van Driessen 1999). The ridge keeps columns that hardly moved
    # from making the covariance singular.
    chosen = evenly_spaced(points, MOST_ENVELOPE_ROWS).astype(np.float64)
    noise = np.random.default_rng(settings.seed).standard_normal(chosen.shape)
    spread = max(0.1 * np.sqrt(np.mean(np.var(chosen, axis=0))), 1e-3)  # data that never moved still need some spread
    core = 1.0 - settings.contamination if settings.contamination else None
    envelope = MinCovDet(random_state=settings.seed, support_fraction=core).fit(chosen + spread * noise)
    values, axes = np.linalg.eigh(envelope.covariance_)
    whitening = axes / np.sqrt(np.maximum(values, spread**2))
    return {"location": envelope.location_.astype(np.float32), "whitening": np.ascontiguousarray(whitening, np.float32)}


def _fit_svm(points: F32, settings: StatisticalAnomalyDetector) -> Arrays:
    chosen = evenly_spaced(points, MOST_SVM_ROWS)
    variance = float(chosen.astype(np.float64).var())
    gamma = 1.0 / (chosen.shape[1] * variance) if variance else 1.0  # scikit-learn's "scale"
    machine = OneClassSVM(nu=settings.nu, gamma=gamma).fit(chosen)
    return {
        "vectors": np.ascontiguousarray(machine.support_vectors_, np.float32),
        "weights": machine.dual_coef_[0].astype(np.float32),
        "gamma": np.array([gamma], np.float64),
        "offset": np.array(machine.offset_, np.float64),
    }


def _score_envelope(model: Arrays, points: F32) -> F64:
    whitened = (points - model["location"]) @ model["whitening"]
    distances: F64 = np.einsum("ij,ij->i", whitened, whitened).astype(np.float64)
    return distances


def _score_svm(model: Arrays, points: F32) -> F64:
    vectors, gamma = model["vectors"], np.float32(model["gamma"][0])
    squared = np.einsum("ij,ij->i", points, points)[:, None] + np.einsum("ij,ij->i", vectors, vectors)[None, :]
    squared -= 2.0 * (points @ vectors.T)
    kernel = np.exp(-gamma * np.maximum(squared, 0.0))
    scores: F64 = model["offset"][0] - (kernel @ model["weights"]).astype(np.float64)
    return scores


_FIT = {"isolation_forest": _fit_forest, "elliptic_envelope": _fit_envelope, "one_class_svm": _fit_svm}
_SCORE = {"isolation_forest": score_forest, "elliptic_envelope": _score_envelope, "one_class_svm": _score_svm}
