"""Bundles: what is written is what is read, in any process, and nothing else gets in."""

from __future__ import annotations

import json
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.app import make_detector
from service.detectors.bundle import ARRAYS, Bundle, load_bundle, save_bundle
from service.detectors.features.windows import Features
from service.detectors.manifest import MANIFEST
from service.domain import F32, Dataset, Schema, Series
from service.errors import BundleError
from service.settings import TrainingSettings
from service.training.train import train

SCHEMA = Schema(("cpu", "memory", "disk"), 1000)


def rows(count: int, seed: int = 0) -> F32:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((count, 3)) * [1, 10, 0.1] + rng.standard_normal((count, 1))).astype(np.float32)


DETECTORS: dict[str, Any] = {"vae": 0.5, "statistical": 0.5, "departure": {"overrides_by_decades": 1.0}}


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    settings = TrainingSettings(window=20, stride=5, epochs=2)
    dataset = Dataset(SCHEMA, [Series("a", 0, rows(700)), Series("b", 0, rows(700, seed=1))])
    return train(dataset, settings, name="hosts", detectors=DETECTORS, factory=make_detector)


@pytest.fixture
def saved(bundle: Bundle, tmp_path: Path) -> Path:
    save_bundle(bundle, tmp_path / "hosts")
    return tmp_path / "hosts"


def scores(bundle: Bundle) -> dict[str, bytes]:
    features: Features = bundle.scaler.windows([Series("b", 0, rows(60, seed=2))], bundle.window)
    raw = {member.name: member.detector.score(features) for member in bundle.members}
    raw["ensemble"] = bundle.calibration().surprise(bundle.ensemble.combine(raw))
    raw["fresh"] = bundle.newest_rows_calibration.p(bundle.newest_rows.score(features))
    return {name: values.tobytes() for name, values in raw.items()}


def test_what_is_read_scores_like_what_was_written_to_the_bit(bundle: Bundle, saved: Path) -> None:
    read = load_bundle(saved, factory=make_detector)
    assert scores(read) == scores(bundle)
    assert (read.name, read.version, read.schema, read.window, read.stride) == ("hosts", bundle.version, SCHEMA, 20, 5)
    assert read.training == bundle.training
    assert read.fingerprint == bundle.fingerprint
    assert len(read.version) == 12
    assert read.metric_activity == bundle.metric_activity
    assert read.early_change == bundle.early_change
    assert bundle.early_change is not None
    assert read.trained_at == bundle.trained_at


def test_metric_activity_of_other_metrics_is_refused(saved: Path) -> None:
    manifest = json.loads((saved / MANIFEST).read_bytes())
    for name in ("judged", "still", "empty"):
        manifest["usual"][name].append(0)
    (saved / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="metric activity is of 4 metrics"):
        load_bundle(saved, factory=make_detector)


def test_a_calibration_that_is_worth_nothing_is_refused(saved: Path) -> None:
    manifest = json.loads((saved / MANIFEST).read_bytes())
    manifest["ensemble"]["n_eff"] = 0.5
    (saved / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="worth less than one window"):
        load_bundle(saved, factory=make_detector)


def test_an_impossible_change_for_early_windows_is_refused(saved: Path) -> None:
    manifest = json.loads((saved / MANIFEST).read_bytes())
    (saved / MANIFEST).write_text(json.dumps(manifest | {"early": 10.5}))
    with pytest.raises(BundleError, match="no row can reach"):
        load_bundle(saved, factory=make_detector)


def test_another_process_reads_the_same_scores(bundle: Bundle, saved: Path) -> None:
    program = (
        "import sys, hashlib, json; from pathlib import Path; from service.app import make_detector;"
        "from service.detectors.bundle import load_bundle; from tests.detectors.test_bundle import scores;"
        "print(json.dumps({k: hashlib.sha256(v).hexdigest() for k, v in"
        " scores(load_bundle(Path(sys.argv[1]), factory=make_detector)).items()}))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program, str(saved)], capture_output=True, text=True, check=True, cwd=root)
    import hashlib

    assert json.loads(done.stdout) == {name: hashlib.sha256(value).hexdigest() for name, value in scores(bundle).items()}


def test_the_same_training_gives_the_same_version(bundle: Bundle, tmp_path: Path) -> None:
    save_bundle(bundle, tmp_path / "one")
    save_bundle(bundle, tmp_path / "two")
    assert (tmp_path / "one" / ARRAYS).read_bytes() == (tmp_path / "two" / ARRAYS).read_bytes()
    assert load_bundle(tmp_path / "one", factory=make_detector).version == bundle.version


def test_a_bundle_is_replaced_whole_and_nothing_else_is(bundle: Bundle, saved: Path) -> None:
    (saved / "stray").write_text("from before")
    save_bundle(bundle, saved)
    assert sorted(file.name for file in saved.iterdir()) == [ARRAYS, MANIFEST]
    assert [file.name for file in saved.parent.iterdir()] == ["hosts"]
    precious = saved.parent / "documents"
    precious.mkdir()
    (precious / "letter.txt").write_text("keep me")
    with pytest.raises(BundleError, match="is no bundle"):
        save_bundle(bundle, precious)
    assert (precious / "letter.txt").read_text() == "keep me"


def test_a_place_that_cannot_be_written_is_one_clear_sentence(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="cannot be written"):
        save_bundle(bundle, tmp_path / "file" / "bundle")


def edit(saved: Path, change: Callable[[dict[str, object]], object]) -> None:
    manifest = json.loads((saved / MANIFEST).read_text())
    change(manifest)
    (saved / MANIFEST).write_text(json.dumps(manifest))


class Bomb:
    """Unpickling this would create a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.target,)


def test_pickles_are_never_run(saved: Path, tmp_path: Path) -> None:
    trap = pickle.dumps(Bomb(tmp_path / "exploded"))
    for file in (ARRAYS, MANIFEST):
        original = (saved / file).read_bytes()
        (saved / file).write_bytes(trap)
        with pytest.raises(BundleError):
            load_bundle(saved, factory=make_detector)
        (saved / file).write_bytes(original)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("size", [2**62, 2**40, 100_000_000])
def test_an_oversized_header_is_refused_before_anything_is_allocated(saved: Path, size: int) -> None:
    content = (saved / ARRAYS).read_bytes()
    (saved / ARRAYS).write_bytes(struct.pack("<Q", size) + content[8:])
    with pytest.raises(BundleError, match="impossible header"):
        load_bundle(saved, factory=make_detector)


@pytest.mark.parametrize("content", [b"", b"\x00" * 4, b"\x10\x00\x00\x00\x00\x00\x00\x00" + b"not json at all.", b"\x00" * 64])
def test_garbage_arrays_are_refused_even_with_a_digest_that_fits(saved: Path, content: bytes) -> None:
    import hashlib

    (saved / ARRAYS).write_bytes(content)
    edit(saved, lambda manifest: manifest.update(arrays_sha256=hashlib.sha256(content).hexdigest()))
    with pytest.raises(BundleError) as refused:
        load_bundle(saved, factory=make_detector)
    assert refused.value.hint


def test_a_single_flipped_bit_is_noticed(saved: Path) -> None:
    content = bytearray((saved / ARRAYS).read_bytes())
    content[-5] ^= 1
    (saved / ARRAYS).write_bytes(content)
    with pytest.raises(BundleError, match="SHA-256 differs"):
        load_bundle(saved, factory=make_detector)


CHANGES: dict[str, tuple[Callable[[dict[str, object]], object], str]] = {
    "another format": (lambda manifest: manifest.update(format=99), "format 99"),
    "no format": (lambda manifest: manifest.pop("format"), "format None"),
    "an unknown detector": (lambda manifest: manifest["members"][0].update(name="oracle"), "oracle"),  # type: ignore[index]
    "unknown options": (lambda manifest: manifest["members"][0].update(options={"depth": 9}), "depth"),  # type: ignore[index]
    "other shapes": (lambda manifest: manifest["members"][0]["settings"].update(hidden=[8]), "does not fit"),  # type: ignore[index]
    "another schema": (lambda manifest: manifest["schema"].update(metrics=["cpu"]), "its scaler has 3 metrics and its schema 1"),  # type: ignore[attr-defined]
    "another major version": (lambda manifest: manifest["libraries"].update(numpy="1.26"), "trained with numpy 1.26"),  # type: ignore[attr-defined]
    "a member gone": (lambda manifest: manifest["members"].pop(), "calibration is not of its members"),  # type: ignore[attr-defined]
    "a huge window": (lambda manifest: manifest.update(window=1_000_000_000), "larger than any"),
    "a stride above the window": (lambda manifest: manifest.update(stride=10_000), "longer than its window"),
    "a huge stride": (lambda manifest: manifest.update(stride=2**62), "longer than its window"),
    "an interval of years": (lambda manifest: manifest["schema"].update(interval_ms=10**12), "longer than a month"),  # type: ignore[attr-defined]
    "a path for a name": (lambda manifest: manifest.update(name="../../x"), "not a plain name"),
    "no name": (lambda manifest: manifest.update(name=""), "not a plain name"),
    "a name with escapes": (lambda manifest: manifest.update(name="a\x1b[2J"), "not a plain name"),
    "a metric twice": (lambda manifest: manifest["schema"].update(metrics=["load"] * 3), "the same names"),  # type: ignore[attr-defined]
    "an impossible date": (lambda manifest: manifest.update(trained_at=-1), "date"),
    "a digest that is none": (lambda manifest: manifest.update(arrays_sha256="x"), "not a SHA-256"),
    "a negative window": (lambda manifest: manifest.update(window=-5), "not positive"),
    "an unknown key": (lambda manifest: manifest.update(run="rm -rf"), "damaged"),
    "a missing part": (lambda manifest: manifest.pop("scaler"), "damaged"),
    "no time of training": (lambda manifest: manifest.pop("trained_at"), "damaged"),
    "no metric activity": (lambda manifest: manifest.pop("usual"), "damaged"),
    "an emptied part": (lambda manifest: manifest.update(ensemble={}), "missing or misshapen"),
    "an unknown combination": (lambda manifest: manifest["ensemble"].update(combination="magic"), "missing or misshapen"),  # type: ignore[attr-defined]
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_manifest_that_does_not_fit_is_refused_with_its_reason(saved: Path, what: str) -> None:
    change, reason = CHANGES[what]
    edit(saved, change)
    with pytest.raises(BundleError, match=reason) as refused:
        load_bundle(saved, factory=make_detector)
    assert refused.value.hint


@pytest.mark.parametrize("content", ["", "[]", "null", "{", "[" * 100_000])
def test_a_manifest_that_is_no_object_is_refused(saved: Path, content: str) -> None:
    (saved / MANIFEST).write_text(content)
    with pytest.raises(BundleError):
        load_bundle(saved, factory=make_detector)


def test_no_bundle_and_half_a_bundle_say_so(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"is not a model bundle"):
        load_bundle(tmp_path / "nowhere", factory=make_detector)
    (saved / ARRAYS).unlink()
    with pytest.raises(BundleError, match="is missing"):
        load_bundle(saved, factory=make_detector)


def test_a_statistical_bundle_loads_without_torch(tmp_path: Path) -> None:
    dataset = Dataset(SCHEMA, [Series("a", 0, rows(600))])
    settings = TrainingSettings(window=20, stride=5)
    made = train(dataset, settings, name="light", detectors={"statistical": 1.0, "mahalanobis": 1.0}, factory=make_detector)
    save_bundle(made, tmp_path / "light")
    program = (
        "import sys; from pathlib import Path; from service.app import open_bundle;"
        "open_bundle(Path(sys.argv[1])); sys.exit('torch' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path / "light")], check=False, cwd=root).returncode == 0
