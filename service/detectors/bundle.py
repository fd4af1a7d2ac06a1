"""A model bundle: everything scoring needs, in a directory of JSON and safetensors. Loading runs no code from the file.

``bundle.json`` holds names, settings and the digest of ``arrays.safetensors``, which holds every array. Both are written
beside the target and renamed into place, so a reader sees the old bundle or the new one, never half of one.
"""

from __future__ import annotations

import hashlib
import json
import struct
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save, save_file

from service.detectors.base import Detector
from service.detectors.decision.calibration import Calibration
from service.detectors.decision.ensemble import Ensemble
from service.detectors.decision.newest_rows import NewestRows
from service.detectors.features.attribution import Attribution
from service.detectors.features.scaler import Scaler
from service.detectors.windowing.early_windows import MOST_CHANGE
from service.detectors.windowing.metric_activity import MetricActivity
from service.domain import Schema
from service.errors import BundleError, ConfigError

FORMAT = 6
VERSION_DIGITS = 12
MANIFEST, ARRAYS = "bundle.json", "arrays.safetensors"
MOST_MANIFEST_BYTES = 64 * 1024 * 1024
MOST_HEADER_BYTES = 16 * 1024 * 1024
# Scores depend on these; a bundle trained with another major version is refused.
LIBRARIES = ("numpy", "scikit-learn", "safetensors")

Factory = Callable[[str, Mapping[str, Any]], Detector]


@dataclass(frozen=True, slots=True, eq=False)
class BundledMember:
    """A trained detector, with the name the factory knows it by and the options it was made with."""

    name: str
    detector: Detector
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """What training leaves and scoring needs. ``sealed`` gives it its version; ``trained_at`` is in ms. ``early``: how far the
    metrics must jump for a window between those of the grid (``early.py``); None: there are none."""

    name: str
    version: str
    schema: Schema
    window: int
    stride: int
    members: tuple[BundledMember, ...]
    scaler: Scaler
    ensemble: Ensemble
    fresh: NewestRows
    fresh_calibration: Calibration
    explainer: Attribution
    training: Mapping[str, Any]
    libraries: Mapping[str, str]
    fingerprint: str
    trained_at: int
    usual: MetricActivity
    early: float | None = None

    def calibration(self) -> Calibration:
        """The tail of the whole ensemble."""
        return self.ensemble.tail([member.name for member in self.members])


class _MemberManifest(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    options: dict[str, Any]
    settings: dict[str, Any]


class _Manifest(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    name: str
    schema: Schema
    window: int
    stride: int
    members: list[_MemberManifest]
    scaler: dict[str, Any]
    ensemble: dict[str, Any]
    fresh: dict[str, Any]
    fresh_calibration: dict[str, Any]
    explainer: dict[str, Any]
    training: dict[str, Any]
    libraries: dict[str, str]
    fingerprint: str
    arrays_sha256: str
    trained_at: int
    usual: MetricActivity
    early: float | None = None


def library_versions() -> dict[str, str]:
    """The libraries that scores depend on, as installed."""
    return {name: version(name) for name in LIBRARIES}


def sealed(bundle: Bundle) -> Bundle:
    """The bundle with its version: the head of a SHA-256 over its arrays, so the same training gives the same one."""
    return replace(bundle, version=hashlib.sha256(save(_pack(bundle)[1])).hexdigest()[:VERSION_DIGITS])


def save_bundle(bundle: Bundle, path: Path) -> None:
    """Write ``bundle`` to the directory ``path``, replacing a bundle that is there in one step.

    Raises ``BundleError`` when the place cannot be written, or holds something that is no bundle.
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
            manifest = _Manifest(
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
                usual=bundle.usual,
                early=bundle.early,
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


def _pack(bundle: Bundle) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What the manifest says of each part, and every array under ``part:name``."""
    arrays: dict[str, NDArray[Any]] = {}

    def keep(under: str, state: tuple[Mapping[str, Any], Mapping[str, NDArray[Any]]]) -> dict[str, Any]:
        settings, kept = state
        arrays.update({f"{under}:{key}": np.ascontiguousarray(value) for key, value in kept.items()})
        return dict(settings)

    parts = {
        "members": [
            _MemberManifest(member.name, dict(member.options), keep(f"member.{member.name}", member.detector.state()))
            for member in bundle.members
        ],
        "scaler": keep("scaler", bundle.scaler.state()),
        "ensemble": keep("ensemble", bundle.ensemble.state()),
        "fresh": keep("fresh", bundle.fresh.state()),
        "fresh_calibration": keep("fresh_calibration", bundle.fresh_calibration.state()),
        "explainer": keep("explainer", bundle.explainer.state()),
    }
    return parts, arrays


def load_bundle(path: Path, *, factory: Factory) -> Bundle:
    """Read a bundle; ``factory(name, options)`` makes each detector, which then takes its state from the arrays.

    Raises ``BundleError``, saying what is wrong and what to do: not a bundle, another format, an array file that does not
    match its digest, an unknown detector, states that do not fit, other major versions of the libraries.
    """
    path = Path(path)
    manifest = _read_manifest(path)
    arrays = _read_arrays(path, manifest.arrays_sha256)
    grouped: dict[str, dict[str, NDArray[Any]]] = {}
    for key, value in arrays.items():
        under, _, name = key.partition(":")
        grouped.setdefault(under, {})[name] = value
    members = tuple(_restore_member(path, told, grouped.get(f"member.{told.name}", {}), factory) for told in manifest.members)
    try:
        bundle = Bundle(
            name=manifest.name,
            version=manifest.arrays_sha256[:VERSION_DIGITS],
            schema=manifest.schema,
            window=manifest.window,
            stride=manifest.stride,
            members=members,
            scaler=Scaler().restore(manifest.scaler, grouped["scaler"]),
            ensemble=Ensemble.restored(manifest.ensemble, grouped["ensemble"]),
            fresh=NewestRows().restore(manifest.fresh, grouped["fresh"]),
            fresh_calibration=Calibration.restored(manifest.fresh_calibration, grouped["fresh_calibration"]),
            explainer=Attribution().restore(manifest.explainer, grouped["explainer"]),
            training=manifest.training,
            libraries=manifest.libraries,
            fingerprint=manifest.fingerprint,
            trained_at=manifest.trained_at,
            usual=manifest.usual,
            early=manifest.early,
        )
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise _unfit(path, f"a part of it is missing or misshapen ({error})") from error
    _check_consistency(path, bundle)
    return bundle


def _restore_member(path: Path, told: _MemberManifest, arrays: Mapping[str, NDArray[Any]], factory: Factory) -> BundledMember:
    try:
        detector = factory(told.name, told.options)
    except (LookupError, ConfigError, TypeError, ValueError) as error:
        raise BundleError(
            f"The bundle {path} holds a detector {told.name!r} that this version cannot make: {error}",
            hint="Train it again with this version, or install the version that made it.",
        ) from error
    try:
        detector.restore(told.settings, arrays)
    except (KeyError, ValueError, TypeError, RuntimeError, IndexError) as error:
        raise _unfit(path, f"the state of its detector {told.name!r} does not fit ({str(error).splitlines()[0]})") from error
    return BundledMember(told.name, detector, told.options)


def _read_manifest(path: Path) -> _Manifest:
    file = path / MANIFEST
    if not file.is_file():
        raise BundleError(f"{path} is not a model bundle: it has no {MANIFEST}.", hint="Make one with: tidewatch train")
    if file.stat().st_size > MOST_MANIFEST_BYTES:
        raise _unfit(path, f"its {MANIFEST} is absurdly large")
    content = file.read_bytes()
    try:
        found = json.loads(content).get("format")
    except (ValueError, AttributeError, RecursionError) as error:
        raise _unfit(path, f"its {MANIFEST} is not JSON") from error
    if found != FORMAT:
        raise BundleError(
            f"The bundle {path} has format {found}; this version reads format {FORMAT}.", hint="Train it again with this version."
        )
    try:
        manifest = msgspec.json.decode(content, type=_Manifest)
    except msgspec.MsgspecError as error:
        raise _unfit(path, f"its {MANIFEST} is damaged ({error})") from error
    for name, trained in manifest.libraries.items():
        if name in LIBRARIES and trained.split(".")[0] != version(name).split(".")[0]:
            raise BundleError(
                f"The bundle {path} was trained with {name} {trained}; {version(name)} is installed.",
                hint=f"Install {name} {trained.split('.')[0]}.x, or train the bundle again.",
            )
    return manifest


def _read_arrays(path: Path, digest: str) -> dict[str, NDArray[Any]]:
    file = path / ARRAYS
    if not file.is_file():
        raise _unfit(path, f"{ARRAYS} is missing")
    with file.open("rb") as stream:
        head = stream.read(8)
    # The header's length comes first; a forged one could ask for any amount of memory.
    if len(head) < 8 or struct.unpack("<Q", head)[0] > min(MOST_HEADER_BYTES, file.stat().st_size):
        raise _unfit(path, f"{ARRAYS} has an impossible header")
    if _digest(file) != digest:
        raise _unfit(path, f"{ARRAYS} is not the file that was saved (its SHA-256 differs)")
    try:
        return dict(load_file(file))
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise _unfit(path, f"{ARRAYS} cannot be read ({error})") from error


def _check_consistency(path: Path, bundle: Bundle) -> None:
    names = [member.name for member in bundle.members]
    if bundle.scaler.dims != bundle.schema.dims:
        raise _unfit(path, f"its scaler has {bundle.scaler.dims} metrics and its schema {bundle.schema.dims}")
    if not names or set(names) != set(bundle.ensemble.weights) or bundle.ensemble.matrix.shape[1] != len(names):
        raise _unfit(path, "its calibration is not of its members")
    if not bundle.ensemble.n_eff >= 1:
        raise _unfit(path, "its calibration is worth less than one window")
    if bundle.usual.dims != bundle.schema.dims:
        raise _unfit(path, f"it says what is usual of {bundle.usual.dims} metrics and its schema has {bundle.schema.dims}")
    if bundle.early is not None and not 0 <= bundle.early < MOST_CHANGE:
        raise _unfit(path, "it says that windows are due early beyond an impossible change")
    if bundle.window < 1 or bundle.stride < 1 or bundle.schema.interval_ms < 1:
        raise _unfit(path, "its window, stride or interval is not positive")


def _unfit(path: Path, why: str) -> BundleError:
    return BundleError(f"The bundle {path} cannot be used: {why}.", hint="Train it again, or restore it from a copy.")


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
