"""A model bundle: everything scoring needs, in a directory of JSON and safetensors. Loading runs no code from the file.

``bundle.json`` (``manifest.py``) holds names, settings and the digest of ``arrays.safetensors``, which holds every array. Both are
written into a folder next to the target, which is then renamed: a reader sees the old bundle or the new one, never half of one.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save, save_file

from service.detectors.base import Detector
from service.detectors.decision.budget_params import SEVERE_PER_DAY, BudgetParams, params_for
from service.detectors.decision.calibration import Calibration
from service.detectors.decision.ensemble import Ensemble
from service.detectors.decision.newest_rows import NewestRows
from service.detectors.features.attribution import Attribution
from service.detectors.features.scaler import Scaler
from service.detectors.manifest import FORMAT, MANIFEST, Manifest, MemberManifest, read_manifest, unusable
from service.detectors.windowing.early_windows import MOST_CHANGE
from service.detectors.windowing.metric_activity import MetricActivity
from service.domain import Schema
from service.errors import BundleError, ConfigError

VERSION_DIGITS = 12
ARRAYS = "arrays.safetensors"
MOST_HEADER_BYTES = 16 * 1024 * 1024

# factory(name, options): a new, unfitted detector.
Factory = Callable[[str, Mapping[str, Any]], Detector]
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class BundledMember:
    """A trained detector, with the name the factory knows it by and the options it was made with."""

    name: str
    detector: Detector
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """Everything that training leaves and scoring needs.

    ``version``: set by ``sealed``. ``window`` and ``stride`` are in rows, ``trained_at`` in ms since the epoch. ``fingerprint``:
    SHA-256 of the training data. ``early_change``: how far the metrics must jump, on average and in robust standard deviations,
    for a window between those of the grid (``early_windows.py``); None: there are no such windows.
    """

    name: str
    version: str
    schema: Schema
    window: int
    stride: int
    members: tuple[BundledMember, ...]
    scaler: Scaler
    ensemble: Ensemble
    newest_rows: NewestRows
    newest_rows_calibration: Calibration
    attribution: Attribution
    training: Mapping[str, Any]
    libraries: Mapping[str, str]
    fingerprint: str
    trained_at: int
    metric_activity: MetricActivity
    early_change: float | None = None

    def calibration(self) -> Calibration:
        """The calibration of the combined score of all members."""
        return self.ensemble.tail([member.name for member in self.members])

    def budget(
        self, alarms_per_day: float, *, floor_p: float | None = None, severe_per_day: tuple[float, float] = SEVERE_PER_DAY
    ) -> BudgetParams:
        """What a budget of alarms per entity and day means for this model. ``floor_p``: the smallest tail probability that is
        supported, where it is not that of all members together; ``severe_per_day`` as in ``params_for``."""
        return params_for(
            alarms_per_day,
            self.schema.interval_ms,
            self.stride,
            floor_p=self.calibration().floor if floor_p is None else floor_p,
            window=self.window,
            severe_per_day=severe_per_day,
        )


def sealed(bundle: Bundle) -> Bundle:
    """The bundle with its version: the first 12 hex digits of a SHA-256 over its arrays, so equal training gives an equal
    version.
    """
    _, arrays = _pack(bundle)
    return replace(bundle, version=hashlib.sha256(save(arrays)).hexdigest()[:VERSION_DIGITS])


def save_bundle(bundle: Bundle, path: Path) -> None:
    """Write ``bundle`` to the directory ``path``, replacing a bundle that is there in one step.

    Raises ``BundleError`` when ``path`` cannot be written, or holds something that is not a bundle.
    """
    path = Path(path)
    parts, arrays = _pack(bundle)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not (path / MANIFEST).is_file() and (not path.is_dir() or any(path.iterdir())):
            raise BundleError(f"{path} exists and is no bundle.", hint="Name another directory; nothing was overwritten.")
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as scratch:
            new = Path(scratch) / "new"
            new.mkdir()
            save_file(arrays, new / ARRAYS)
            manifest = Manifest(
                format=FORMAT,
                name=bundle.name,
                schema=bundle.schema,
                window=bundle.window,
                stride=bundle.stride,
                training=dict(bundle.training),
                libraries=dict(bundle.libraries),
                fingerprint=bundle.fingerprint,
                arrays_sha256=_digest(new / ARRAYS),
                trained_at=bundle.trained_at,
                metric_activity=bundle.metric_activity,
                early_change=bundle.early_change,
                **parts,
            )
            (new / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
            if path.exists():
                path.replace(Path(scratch) / "old")
            new.replace(path)
    except OSError as error:
        raise BundleError(
            f"The bundle cannot be written to {path}: {error.strerror}.", hint="Check the path and its permissions."
        ) from error


def _pack(bundle: Bundle) -> tuple[dict[str, Any], Arrays]:
    """Each part's settings by its field in the manifest, and all arrays by ``part:name`` (the names that format 6 stores)."""
    arrays: Arrays = {}

    def keep(part: str, state: tuple[Mapping[str, Any], Mapping[str, NDArray[Any]]]) -> dict[str, Any]:
        settings, kept = state
        arrays.update({f"{part}:{key}": np.ascontiguousarray(value) for key, value in kept.items()})
        return dict(settings)

    parts = {
        "members": [
            MemberManifest(member.name, dict(member.options), keep(f"member.{member.name}", member.detector.state()))
            for member in bundle.members
        ],
        "scaler": keep("scaler", bundle.scaler.state()),
        "ensemble": keep("ensemble", bundle.ensemble.state()),
        "newest_rows": keep("fresh", bundle.newest_rows.state()),
        "newest_rows_calibration": keep("fresh_calibration", bundle.newest_rows_calibration.state()),
        "attribution": keep("explainer", bundle.attribution.state()),
    }
    return parts, arrays


def load_bundle(path: Path, *, factory: Factory) -> Bundle:
    """Read a bundle; ``factory(name, options)`` makes each detector, which then takes its state from the arrays.

    Raises ``BundleError``, saying what is wrong and what to do: not a bundle, another format, an array file that does not
    match its digest, an unknown detector, states that do not fit, other major versions of the libraries.
    """
    path = Path(path)
    manifest = read_manifest(path)
    parts: dict[str, Arrays] = {}
    for key, value in _read_arrays(path, manifest.arrays_sha256).items():
        part, _, name = key.partition(":")
        parts.setdefault(part, {})[name] = value
    members = tuple(_restore_member(path, one, parts.get(f"member.{one.name}", {}), factory) for one in manifest.members)
    try:
        bundle = Bundle(
            name=manifest.name,
            version=manifest.arrays_sha256[:VERSION_DIGITS],
            schema=manifest.schema,
            window=manifest.window,
            stride=manifest.stride,
            members=members,
            scaler=Scaler().restore(manifest.scaler, parts["scaler"]),
            ensemble=Ensemble.restored(manifest.ensemble, parts["ensemble"]),
            newest_rows=NewestRows().restore(manifest.newest_rows, parts["fresh"]),
            newest_rows_calibration=Calibration.restored(manifest.newest_rows_calibration, parts["fresh_calibration"]),
            attribution=Attribution().restore(manifest.attribution, parts["explainer"]),
            training=manifest.training,
            libraries=manifest.libraries,
            fingerprint=manifest.fingerprint,
            trained_at=manifest.trained_at,
            metric_activity=manifest.metric_activity,
            early_change=manifest.early_change,
        )
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise unusable(path, f"a part of it is missing or misshapen ({error})") from error
    _check_consistency(path, bundle)
    return bundle


def _restore_member(path: Path, kept: MemberManifest, arrays: Mapping[str, NDArray[Any]], factory: Factory) -> BundledMember:
    try:
        detector = factory(kept.name, kept.options)
    except (LookupError, ConfigError, TypeError, ValueError) as error:
        raise BundleError(
            f"The bundle {path} holds a detector {kept.name!r} that this version cannot make: {error}",
            hint="Train it again with this version, or install the version that made it.",
        ) from error
    try:
        detector.restore(kept.settings, arrays)
    except (KeyError, ValueError, TypeError, RuntimeError, IndexError) as error:
        raise unusable(path, f"the state of its detector {kept.name!r} does not fit ({str(error).splitlines()[0]})") from error
    return BundledMember(kept.name, detector, kept.options)


def _read_arrays(path: Path, digest: str) -> Arrays:
    file = path / ARRAYS
    if not file.is_file():
        raise unusable(path, f"{ARRAYS} is missing")
    with file.open("rb") as stream:
        head = stream.read(8)
    # The header's length comes first; a forged one could ask for any amount of memory.
    if len(head) < 8 or int.from_bytes(head, "little") > min(MOST_HEADER_BYTES, file.stat().st_size):
        raise unusable(path, f"{ARRAYS} has an impossible header")
    if _digest(file) != digest:
        raise unusable(path, f"{ARRAYS} is not the file that was saved (its SHA-256 differs)")
    try:
        return dict(load_file(file))
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise unusable(path, f"{ARRAYS} cannot be read ({error})") from error


def _check_consistency(path: Path, bundle: Bundle) -> None:
    names, dims = [member.name for member in bundle.members], bundle.schema.dims
    if bundle.scaler.dims != dims:
        raise unusable(path, f"its scaler has {bundle.scaler.dims} metrics and its schema {dims}")
    if not names or set(names) != set(bundle.ensemble.weights) or bundle.ensemble.matrix.shape[1] != len(names):
        raise unusable(path, "its calibration is not of its members")
    if not bundle.ensemble.n_eff >= 1:
        raise unusable(path, "its calibration is worth less than one window")
    if bundle.metric_activity.dims != dims:
        raise unusable(path, f"its metric activity is of {bundle.metric_activity.dims} metrics and its schema has {dims}")
    if bundle.early_change is not None and not 0 <= bundle.early_change < MOST_CHANGE:
        raise unusable(path, f"its early windows ask for a change of {bundle.early_change:g}, which no row can reach")


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
