"""From a data set to a model bundle: train on the older rows, calibrate on the newest, train once more on all."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from service.clock import Clock, SystemClock
from service.detectors.bundle import Bundle, BundledMember, Factory, sealed
from service.detectors.decision.calibration import Calibration
from service.detectors.decision.ensemble import Ensemble
from service.detectors.decision.newest_rows import NewestRows
from service.detectors.features.attribution import Attribution
from service.detectors.features.scaler import Scaler
from service.detectors.features.windows import Features
from service.detectors.manifest import library_versions
from service.detectors.windowing.early_windows import learn_mean_change
from service.detectors.windowing.metric_activity import count_activity
from service.domain import F64, Dataset
from service.errors import ConfigError, DatasetError
from service.progress import Progress, silent
from service.settings import TrainingSettings
from service.training.detector_options import detector_options, overrides_by_decades
from service.training.split import split

# Windows scored at a time while calibrating: bounds memory whatever the number of rows.
CHUNK = 16_384


def train(
    dataset: Dataset,
    settings: TrainingSettings,
    *,
    name: str,
    detectors: Mapping[str, float | Mapping[str, Any]],
    factory: Factory,
    progress: Progress = silent,
    clock: Clock | None = None,
) -> Bundle:
    """Train ``detectors`` on the normal rows of ``dataset``; all its entities share the bundle, which keeps the ``clock``'s time.

    ``detectors``: by name a weight, or a mapping of options (``detector_options.py``), e.g. ``{"mahalanobis": 4.0, "departure":
    {"overrides_by_decades": 1.0}}``. ``factory(name, options)`` makes each of them. ``progress(stage, done, total, detail)`` is
    called throughout. Raises ``NotEnoughData`` naming the least rows needed, ``DatasetError`` for rows that do not fit the
    schema, ``ConfigError`` for detectors that are unknown or refuse their options, ``TrainingFailed`` for a network that does not
    learn.
    """
    _check(dataset)
    # The matrices are too small to be worth splitting, and BLAS threads wait by spinning: next to other work on two cores, fitting
    # the envelope took 50 s of CPU on two threads and 1.1 s on one.
    with threadpool_limits(1):
        return _train(dataset, settings, name, detectors, factory, progress, clock or SystemClock())


def _train(
    dataset: Dataset,
    settings: TrainingSettings,
    name: str,
    detectors: Mapping[str, float | Mapping[str, Any]],
    factory: Factory,
    progress: Progress,
    clock: Clock,
) -> Bundle:
    options = {detector: detector_options(detector, given) for detector, given in detectors.items()}
    parts = split(dataset.series, settings.window, settings.calibration_share)
    scaler = Scaler().fit(parts.fit)
    learn = _at_most(scaler.windows(parts.fit, settings.window), settings.max_windows)
    every = scaler.windows(parts.calibration, settings.window)
    # Overlapping windows are redundant: subsampling them changes neither the tail nor n_eff (decision 0004).
    held_out = _at_most(every, settings.max_calibration_windows)
    members = [_make(detector, one.own, settings, factory) for detector, one in options.items()]
    for member in members:
        member.detector.fit(learn, progress=progress)
    newest_rows = NewestRows(settings.stride).fit(learn)

    matrix = _calibration_matrix(members, held_out, progress)
    ensemble = Ensemble(
        {detector: one.weight for detector, one in options.items()},
        matrix,
        max(len(every) / settings.window, 1.0),
        combination=settings.combination,
        overrides_by_decades=overrides_by_decades(options),
    )
    rows = sum(len(one.values) for one in parts.calibration)
    newest_rows_calibration = Calibration(_newest_rows_scores(newest_rows, held_out), rows / settings.stride)
    if settings.refit:
        # The scaler stays: scores in other units would no longer be those that were calibrated (0.02 VUS-PR, decision 0004).
        everything = _at_most(scaler.windows(parts.everything, settings.window), settings.max_windows)
        for member in members:
            member.detector.fit(everything, progress=progress)
        newest_rows.fit(everything)
        learn = everything
    bundle = Bundle(
        name=name,
        version="",
        schema=dataset.schema,
        window=settings.window,
        stride=settings.stride,
        members=tuple(members),
        scaler=scaler,
        ensemble=ensemble,
        newest_rows=newest_rows,
        newest_rows_calibration=newest_rows_calibration,
        attribution=Attribution().fit(learn),
        training=settings.model_dump(mode="json"),
        libraries=library_versions(),
        fingerprint=fingerprint(dataset),
        trained_at=clock.now_ms(),
        metric_activity=count_activity(parts.everything, settings.window),
        early_change=learn_mean_change(
            parts.everything, scaler, window=settings.window, stride=settings.stride, share=settings.early_share
        ),
    )
    return sealed(bundle)


def fingerprint(dataset: Dataset) -> str:
    """SHA-256 (hex) of the schema and of every value: it identifies the data that a bundle was trained on."""
    digest = hashlib.sha256(repr((dataset.schema.metrics, dataset.schema.interval_ms)).encode())
    for one in dataset.series:
        digest.update(f"{one.entity}\x00{one.start_row}\x00{one.values.shape}".encode())
        digest.update(np.ascontiguousarray(one.values, np.float32).tobytes())
    return digest.hexdigest()


def _check(dataset: Dataset) -> None:
    for one in dataset.series:
        if one.values.ndim != 2 or one.values.shape[1] != dataset.schema.dims:
            raise DatasetError(
                f"The series of {one.entity} has the shape {one.values.shape}; its schema has {dataset.schema.dims} metrics.",
                hint="Every row needs one value per metric (NaN where missing).",
            )


def _make(name: str, given: Mapping[str, Any], settings: TrainingSettings, factory: Factory) -> BundledMember:
    """A new detector with the options given, and those settings of the section ``training`` that it takes."""
    try:
        common = {key: getattr(settings, key) for key in getattr(factory(name, given), "takes", ())}
        options = {**common, **given}
        return BundledMember(name, factory(name, options), options)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"The detector {name!r} does not take these options: {error}.",
            hint="docs/reference/detectors.md lists every detector's options.",
        ) from error


def _at_most(features: Features, most: int) -> Features:
    """At most ``most`` of the windows, evenly spaced."""
    if len(features) <= most:
        return features
    return features.take(np.linspace(0, len(features) - 1, most).astype(np.int64))


def _calibration_matrix(members: Sequence[BundledMember], held_out: Features, progress: Progress) -> F64:
    """Float64 (n, members): every member's raw score of every held-out window."""
    matrix = np.empty((len(held_out), len(members)))
    total = len(members) * len(held_out)
    for start in range(0, len(held_out), CHUNK):
        part = held_out.take(slice(start, start + CHUNK))
        for at, member in enumerate(members):
            matrix[start : start + CHUNK, at] = member.detector.score(part)
        progress("calibrate", (start + len(part)) * len(members), total, f"{len(held_out)} windows")
    return matrix


def _newest_rows_scores(newest_rows: NewestRows, features: Features) -> F64:
    parts = [newest_rows.score(features.take(slice(start, start + CHUNK))) for start in range(0, len(features), CHUNK)]
    return np.concatenate(parts)
