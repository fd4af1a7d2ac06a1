"""``bundle.json``: what a model bundle says about itself, and when this version can use it.

The fields have today's names; the keys in the file are those of format 6, so that older bundles are read and older versions
read newer bundles.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from service.detectors.windowing.metric_activity import MetricActivity
from service.domain import Schema
from service.errors import BundleError

FORMAT = 6
MANIFEST = "bundle.json"
MOST_MANIFEST_BYTES = 64 * 1024 * 1024
# Scores depend on these; a bundle trained with another major version is refused.
LIBRARIES = ("numpy", "scikit-learn", "safetensors")


class MemberManifest(msgspec.Struct, forbid_unknown_fields=True):
    """One detector: ``name`` and ``options`` make it, ``settings`` (with its arrays) are its trained state."""

    name: str
    options: dict[str, Any]
    settings: dict[str, Any]


class Manifest(msgspec.Struct, forbid_unknown_fields=True):
    """The content of ``bundle.json``: names, and the JSON half of every part's state. The other half lies in the arrays."""

    format: int
    name: str
    schema: Schema
    window: int
    stride: int
    members: list[MemberManifest]
    scaler: dict[str, Any]
    ensemble: dict[str, Any]
    newest_rows: dict[str, Any] = msgspec.field(name="fresh")
    newest_rows_calibration: dict[str, Any] = msgspec.field(name="fresh_calibration")
    attribution: dict[str, Any] = msgspec.field(name="explainer")
    training: dict[str, Any]
    libraries: dict[str, str]
    fingerprint: str
    arrays_sha256: str
    trained_at: int
    metric_activity: MetricActivity = msgspec.field(name="usual")
    early_change: float | None = msgspec.field(name="early", default=None)


def library_versions() -> dict[str, str]:
    """The installed versions of the libraries that scores depend on, by name."""
    return {name: version(name) for name in LIBRARIES}


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the bundle in ``folder``.

    Raises ``BundleError`` for a folder without one, another format, damaged JSON, or another major version of a library.
    """
    file = folder / MANIFEST
    if not file.is_file():
        raise BundleError(f"{folder} is not a model bundle: it has no {MANIFEST}.", hint="Make one with: tidewatch train")
    if file.stat().st_size > MOST_MANIFEST_BYTES:
        raise unusable(folder, f"its {MANIFEST} is larger than {MOST_MANIFEST_BYTES:,} bytes")
    content = file.read_bytes()
    try:
        found = json.loads(content).get("format")
    except (ValueError, AttributeError, RecursionError) as error:
        raise unusable(folder, f"its {MANIFEST} is not JSON") from error
    if found != FORMAT:
        raise BundleError(
            f"The bundle {folder} has format {found}; this version reads format {FORMAT}.", hint="Train it again with this version."
        )
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
    except msgspec.MsgspecError as error:
        raise unusable(folder, f"its {MANIFEST} is damaged ({error})") from error
    for name, trained in manifest.libraries.items():
        if name in LIBRARIES and trained.split(".")[0] != version(name).split(".")[0]:
            raise BundleError(
                f"The bundle {folder} was trained with {name} {trained}; {version(name)} is installed.",
                hint=f"Install {name} {trained.split('.')[0]}.x, or train the bundle again.",
            )
    return manifest


def unusable(folder: Path, why: str) -> BundleError:
    """The error for a bundle that is damaged or does not fit together."""
    return BundleError(f"The bundle {folder} cannot be used: {why}.", hint="Train it again, or restore it from a copy.")
