"""From a data set to a model bundle: learn on the older rows, calibrate on the newest, learn once more from all."""

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

    ``detectors``: a weight by name, or a mapping with ``weight`` (1 by default) or ``beside`` (see ``Ensemble``) and the detector's
    own options.
    ``progress(stage, done, total, detail)`` is called throughout. Raises ``NotEnoughData`` naming the least rows needed,
    ``DatasetError`` for rows that do not fit the schema, ``ConfigError`` for detectors that are unknown or refuse their options.
    """
    _check(dataset)
    # The matrices are too small to split, and BLAS threads wait by spinning: next to other work on two cores, fitting the
    # envelope took 50 s of CPU on two threads and 1.1 s on one.
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
    weights, beside = {name: _weight(told) for name, told in detectors.items()}, _beside(detectors)
    parts = split(dataset.series, settings.window, settings.calibration_share)
    scaler = Scaler().fit(parts.fit)
    learn = _capped(scaler.windows(parts.fit, settings.window), settings.max_windows)
    every = scaler.windows(parts.calibration, settings.window)
    # Neighbours overlap nearly whole: some of them tell what all of them do, and vouch for as rare a score (decision 0004).
    held_out = _capped(every, settings.max_calibration_windows)
    members = [_make(kind, told, settings, factory) for kind, told in detectors.items()]
    for member in members:
        member.detector.fit(learn, progress=progress)
    newest_rows = NewestRows(settings.stride).fit(learn)

    matrix = _matrix(members, held_out, progress)
    ensemble = Ensemble(
        weights,
        matrix,
        max(len(every) / settings.window, 1.0),
        combination=settings.combination,
        beside=beside,
    )
    rows = sum(len(one.values) for one in parts.calibration)
    newest_rows_calibration = Calibration(_in_chunks(newest_rows, held_out), rows / settings.stride)
    if settings.refit:
        # The scale stays: scores in other units would no longer be those that were calibrated (0.02 VUS-PR, decision 0004).
        everything = _capped(scaler.windows(parts.everything, settings.window), settings.max_windows)
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
    """SHA-256 (hex) of the schema and of every value, so that a bundle says what it was trained on."""
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


def _make(kind: str, told: float | Mapping[str, Any], settings: TrainingSettings, factory: Factory) -> BundledMember:
    options = {key: value for key, value in told.items() if key not in ("weight", "beside")} if isinstance(told, Mapping) else {}
    try:
        common = {key: getattr(settings, key) for key in getattr(factory(kind, options), "takes", ())}
        options = {**common, **options}
        return BundledMember(kind, factory(kind, options), options)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"The detector {kind!r} does not take these options: {error}.", hint="docs/reference/detectors.md lists its options."
        ) from error


def _weight(told: float | Mapping[str, Any]) -> float:
    if not isinstance(told, Mapping):
        return float(told)
    return 0.0 if "beside" in told else float(told.get("weight", 1.0))


def _beside(detectors: Mapping[str, float | Mapping[str, Any]]) -> dict[str, float]:
    found = {name: told for name, told in detectors.items() if isinstance(told, Mapping) and "beside" in told}
    for name, told in found.items():
        if "weight" in told or not isinstance(told["beside"], int | float) or told["beside"] < 0:
            raise ConfigError(
                f"The detector {name!r} stands beside the others by {told['beside']!r}, weight {told.get('weight')!r}.",
                hint="Give either a weight, or beside: how many decades rarer its word must be to overrule the others (0 or more).",
            )
    return {name: float(told["beside"]) for name, told in found.items()}


def _capped(features: Features, most: int) -> Features:
    if len(features) <= most:
        return features
    return features.take(np.linspace(0, len(features) - 1, most).astype(np.int64))


def _matrix(members: Sequence[BundledMember], held_out: Features, progress: Progress) -> F64:
    matrix = np.empty((len(held_out), len(members)))
    total = len(members) * len(held_out)
    for start in range(0, len(held_out), CHUNK):
        part = held_out.take(slice(start, start + CHUNK))
        for at, member in enumerate(members):
            matrix[start : start + CHUNK, at] = member.detector.score(part)
        progress("calibrate", (start + len(part)) * len(members), total, f"{len(held_out)} windows")
    return matrix


def _in_chunks(fresh: NewestRows, features: Features) -> F64:
    parts = [fresh.score(features.take(slice(start, start + CHUNK))) for start in range(0, len(features), CHUNK)]
    return np.concatenate(parts)
