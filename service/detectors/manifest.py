"""``bundle.json``: what a model bundle says about itself, and when this version can use it.

The fields have today's names; the keys in the file are those of format 6, so that older bundles are read and older versions
read newer bundles.
"""

from __future__ import annotations

import json
import re
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
MOST_ROWS = 100_000  # of a window
MOST_NUMBERS = 10_000_000  # of a window: rows × metrics
MOST_INTERVAL_MS = 31 * 86_400_000
MOST_NAME = 256
LATEST_MS = 100_000_000_000_000
_DIGEST = re.compile(r"[0-9a-f]{64}").fullmatch
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
    _check_fields(folder, manifest)
    for name, trained in manifest.libraries.items():
        if name in LIBRARIES and trained.split(".")[0] != version(name).split(".")[0]:
            raise BundleError(
                f"The bundle {folder} was trained with {name} {trained}; {version(name)} is installed.",
                hint=f"Install {name} {trained.split('.')[0]}.x, or train the bundle again.",
            )
    return manifest


def _check_fields(folder: Path, manifest: Manifest) -> None:
    """The digest covers the arrays and not this file: what is not compared with the arrays is bounded here."""
    metrics, name = manifest.schema.metrics, manifest.name
    if manifest.window < 1 or manifest.stride < 1 or manifest.schema.interval_ms < 1:
        raise unusable(folder, "its window, stride or interval is not positive")
    if manifest.window > MOST_ROWS or manifest.window * max(1, len(metrics)) > MOST_NUMBERS:
        raise unusable(folder, f"its window of {manifest.window:,} rows is larger than any that can be kept")
    if manifest.stride > manifest.window:
        raise unusable(folder, f"its stride of {manifest.stride:,} rows is longer than its window of {manifest.window:,}")
    if manifest.schema.interval_ms > MOST_INTERVAL_MS:
        raise unusable(folder, f"its interval of {manifest.schema.interval_ms:,} ms is longer than a month")
    if not name or len(name) > MOST_NAME or not name.isprintable() or "/" in name or "\\" in name or name.startswith("."):
        raise unusable(folder, f"its name {name[:MOST_NAME]!r} is not a plain name")
    if not metrics or len(set(metrics)) != len(metrics) or not all(0 < len(metric) <= MOST_NAME for metric in metrics):
        raise unusable(folder, "its metrics have no names, the same names, or very long ones")
    members = [member.name for member in manifest.members]
    if len(set(members)) != len(members):
        raise unusable(folder, "it has a detector twice")
    if not 0 <= manifest.trained_at <= LATEST_MS:
        raise unusable(folder, "its date is impossible")
    if not _DIGEST(manifest.arrays_sha256):
        raise unusable(folder, "its digest of the arrays is not a SHA-256")


def unusable(folder: Path, why: str) -> BundleError:
    """The error for a bundle that is damaged or does not fit together."""
    return BundleError(f"The bundle {folder} cannot be used: {why}.", hint="Train it again, or restore it from a copy.")
