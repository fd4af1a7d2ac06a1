"""Training: from a data set to a bundle that serves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from service.app import make_detector
from service.clock import ManualClock
from service.detectors.bundle import Bundle
from service.domain import F32, Dataset, Schema, Series
from service.errors import ConfigError, DatasetError, NotEnoughData
from service.settings import TrainingSettings
from service.settings.base import RenamedSettingWarning
from service.training.detector_options import detector_options
from service.training.train import fingerprint, train

SCHEMA = Schema(("cpu", "memory", "disk"), 1000)
SETTINGS = TrainingSettings(window=20, stride=5, epochs=2)
LIGHT: dict[str, Any] = {"statistical": 0.6, "mahalanobis": 0.4}


def rows(count: int, seed: int = 0, level: float = 0.0) -> F32:
    rng = np.random.default_rng(seed)
    return (level + rng.standard_normal((count, 3)) * [1, 10, 0.1] + rng.standard_normal((count, 1))).astype(np.float32)


def dataset(*series: Series) -> Dataset:
    return Dataset(SCHEMA, series or (Series("a", 0, rows(900)),))


def trained(data: Dataset, detectors: dict[str, Any] | None = None, **settings: Any) -> Bundle:
    chosen = SETTINGS.model_copy(update=settings)
    return train(data, chosen, name="hosts", detectors=detectors or LIGHT, factory=make_detector)


def test_the_bundle_holds_what_was_asked_for() -> None:
    bundle = trained(dataset(), {"statistical": 0.6, "vae": {"weight": 0.4, "hidden": [8], "latent": 2}}, combination="zscore")
    assert [member.name for member in bundle.members] == ["statistical", "vae"]
    assert bundle.ensemble.weights == {"statistical": 0.6, "vae": 0.4}
    assert bundle.ensemble.combination == "zscore"
    assert bundle.members[1].options["hidden"] == [8]
    assert bundle.members[1].options["epochs"] == 2
    assert (bundle.schema, bundle.window, bundle.stride) == (SCHEMA, 20, 5)
    assert bundle.training["window"] == 20
    assert bundle.fingerprint == fingerprint(dataset())
    assert bundle.ensemble.matrix.shape == (180 - 20 + 1, 2)


def test_a_long_calibration_is_thinned_and_supports_as_high_a_score() -> None:
    data = dataset(Series("a", 0, rows(4000)))
    whole, thinned = trained(data), trained(data, max_calibration_windows=200)
    assert (len(whole.ensemble.matrix), len(thinned.ensemble.matrix)) == (800 - 20 + 1, 200)
    assert thinned.ensemble.n_eff == whole.ensemble.n_eff == pytest.approx(781 / 20)
    assert thinned.calibration().floor == whole.calibration().floor
    first_and_newest = [0, -1]  # the same windows, but for the rounding of products over batches of another size
    np.testing.assert_allclose(thinned.ensemble.matrix[first_and_newest], whole.ensemble.matrix[first_and_newest], rtol=1e-5)
    quantiles = [0.5, 0.9, 0.95]
    thinned_tail, whole_tail = (np.quantile(one.ensemble.matrix, quantiles, axis=0) for one in (thinned, whole))
    np.testing.assert_allclose(thinned_tail, whole_tail, rtol=0.2)


def test_the_bundle_says_when_it_was_trained_and_what_usually_moves_of_what_is_normal() -> None:
    values = rows(2000)
    values[:, 1] = 7  # never moves
    values[1200:, 2] = np.nan  # is missing for long
    values[500:600, 0] = 3  # stands still, but somebody knows that this is wrong
    labels = np.zeros(2000, np.uint8)
    labels[500:600] = 1
    data = dataset(Series("a", 0, values, labels))
    bundle = train(data, SETTINGS, name="hosts", detectors=LIGHT, factory=make_detector, clock=ManualClock(77))
    assert bundle.trained_at == 77
    assert bundle.metric_activity.windows == 500 - 19 + 1400 - 19
    assert bundle.metric_activity.moves.tolist() == [True, False, True]
    assert bundle.metric_activity.filled.tolist() == [True, True, False]


def test_the_same_data_and_seed_give_the_same_bundle_and_others_another() -> None:
    assert trained(dataset()).version == trained(dataset()).version
    assert trained(dataset()).version != trained(dataset(Series("a", 0, rows(900, seed=1)))).version
    assert trained(dataset()).version != trained(dataset(), seed=1).version


def test_calibration_sees_rows_that_training_did_not() -> None:
    values = rows(1000)
    values[800:] *= 3  # the newest fifth is wilder than anything older
    honest = trained(dataset(Series("a", 0, values)), refit=False)
    calm = trained(dataset(), refit=False)
    at = list(honest.ensemble.weights).index("mahalanobis")
    assert np.median(honest.ensemble.matrix[:, at]) > 2 * np.median(calm.ensemble.matrix[:, at])


def test_refitting_learns_from_the_newest_rows_and_keeps_the_calibration() -> None:
    values = rows(1000)
    values[800:] *= 3
    data = dataset(Series("a", 0, values))
    once, twice = trained(data, refit=False), trained(data, refit=True)
    np.testing.assert_array_equal(once.ensemble.matrix, twice.ensemble.matrix)
    newest = [Series("a", 0, values[800:])]
    before, after = (bundle.members[1].detector.score(bundle.scaler.windows(newest, 20)).mean() for bundle in (once, twice))
    assert after < before


def test_labelled_anomalies_in_the_training_rows_are_not_learned_from() -> None:
    clean, dirty = rows(1200), rows(1200)
    dirty[300:400] += 1000
    labels = np.zeros(1200, np.uint8)
    labels[300:400] = 1
    labelled = trained(dataset(Series("a", 0, dirty, labels)))
    unlabelled = trained(dataset(Series("a", 0, dirty)))
    reference = trained(dataset(Series("a", 0, clean)))
    np.testing.assert_allclose(labelled.scaler.scale("a"), reference.scaler.scale("a"), rtol=0.05)
    assert (unlabelled.scaler.scale("a") > 2 * reference.scaler.scale("a")).all()


def test_entities_share_a_bundle_and_keep_their_own_scale() -> None:
    bundle = trained(dataset(Series("low", 0, rows(900)), Series("high", 0, rows(900, seed=1, level=500))))
    assert bundle.scaler.centre("low")[0] == pytest.approx(0, abs=0.3)
    assert bundle.scaler.centre("high")[0] == pytest.approx(500, abs=0.3)
    assert len(bundle.ensemble.matrix) == 2 * 161
    features = bundle.scaler.windows([Series("high", 0, rows(100, seed=2, level=500))], 20)
    assert np.median(bundle.calibration().surprise(_combined(bundle, features))) < 1


def _combined(bundle: Bundle, features: Any) -> Any:
    return bundle.ensemble.combine({member.name: member.detector.score(features) for member in bundle.members})


def test_a_detector_may_override_the_others() -> None:
    bundle = trained(dataset(), LIGHT | {"departure": {"overrides_by_decades": 1.5, "span": 5}})
    assert bundle.ensemble.overrides_by_decades == {"departure": 1.5}
    assert bundle.ensemble.weights == {**LIGHT, "departure": 0.0}
    assert bundle.members[-1].options["span"] == 5
    assert "overrides_by_decades" not in bundle.members[-1].options


def test_the_old_name_of_the_option_is_accepted_with_a_warning() -> None:
    with pytest.warns(RenamedSettingWarning, match="beside is now called overrides_by_decades"):
        given = TrainingSettings(detectors={"departure": {"beside": 1.5, "span": 5}})
    assert given.detectors == {"departure": {"overrides_by_decades": 1.5, "span": 5}}
    with pytest.warns(RenamedSettingWarning):  # train() is also called without the settings
        old = detector_options("departure", {"beside": 1.5, "span": 5})
    assert old == detector_options("departure", {"overrides_by_decades": 1.5, "span": 5})
    with pytest.warns(RenamedSettingWarning), pytest.raises(ConfigError, match="overrides_by_decades -1"):
        detector_options("departure", {"beside": -1})
    with pytest.raises(ConfigError, match="twice"):
        detector_options("departure", {"beside": 1.0, "overrides_by_decades": 1.0})


@pytest.mark.parametrize(
    "options", [{"overrides_by_decades": -1}, {"overrides_by_decades": 1.0, "weight": 2.0}, {"overrides_by_decades": "much"}]
)
def test_how_a_detector_overrides_the_others_is_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="has overrides_by_decades") as refused:
        trained(dataset(), LIGHT | {"departure": options})
    assert "either a weight, or overrides_by_decades" in str(refused.value.hint)


def test_many_rows_are_thinned_evenly() -> None:
    seen: list[int] = []

    def spying(name: str, options: Any) -> Any:
        detector = make_detector(name, options)
        fit = detector.fit

        def counted(features: Any, **given: Any) -> None:
            seen.append(len(features))
            ends = np.diff(features.ends)
            assert ends.max() - ends.min() <= 1
            fit(features, **given)

        detector.fit = counted  # type: ignore[method-assign]  # watched
        return detector

    settings = SETTINGS.model_copy(update={"max_windows": 300})
    train(dataset(Series("a", 0, rows(3000))), settings, name="x", detectors={"mahalanobis": 1.0}, factory=spying)
    assert seen == [300, 300]


def test_missing_values_train_and_an_unseen_metric_is_neutral() -> None:
    values = rows(900)
    values[np.random.default_rng(0).random(values.shape) < 0.1] = np.nan
    values[:, 2] = np.nan
    bundle = trained(dataset(Series("a", 0, values)))
    assert np.isfinite(bundle.ensemble.matrix).all()


def test_a_few_hundred_rows_are_enough_and_fewer_are_refused_by_number() -> None:
    assert trained(dataset(Series("a", 0, rows(200)))).calibration().n_eff >= 1
    with pytest.raises(NotEnoughData, match=r"window of 20 rows needs at least 15\d consecutive normal rows") as refused:
        trained(dataset(Series("a", 0, rows(100))))
    assert "training.window" in refused.value.hint


def test_progress_names_every_stage() -> None:
    reported: list[tuple[str, int, int, str]] = []
    train(
        dataset(),
        SETTINGS,
        name="x",
        detectors={**LIGHT, "vae": 1.0},
        factory=make_detector,
        progress=lambda *one: reported.append(one),
    )
    assert {stage for stage, *_ in reported} >= {"statistical", "mahalanobis", "vae", "calibrate"}
    assert all(0 <= done <= total for _, done, total, _ in reported)


@pytest.mark.parametrize(
    ("detectors", "named"),
    [({"oracle": 1.0}, "oracle"), ({"vae": {"depth": 3}}, "depth"), ({"statistical": {"weights": {"x": 1}}}, "weights")],
)
def test_detectors_that_do_not_exist_or_refuse_their_options_are_named(detectors: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        trained(dataset(), detectors)


def test_rows_that_do_not_fit_the_schema_are_refused() -> None:
    with pytest.raises(DatasetError, match=r"its schema has 3 metrics"):
        trained(dataset(Series("a", 0, rows(900)[:, :2])))
