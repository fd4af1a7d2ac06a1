"""A bundle written by the code before the names changed is read after it, and scores the same.

``bundle_written_before_the_moves.json`` holds the bundle's manifest, its arrays (base64), rows to score, and the scores that the
old code gave them.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.app import make_detector
from service.detectors.bundle import ARRAYS, Bundle, load_bundle, save_bundle
from service.detectors.manifest import MANIFEST, library_versions
from service.domain import Series

WRITTEN = Path(__file__).with_name("bundle_written_before_the_moves.json")


@pytest.fixture(scope="module")
def written() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(WRITTEN.read_text())
    return content


@pytest.fixture
def bundle(written: dict[str, Any], tmp_path: Path) -> Bundle:
    manifest = written["manifest"] | {"libraries": library_versions()}  # a new major version of numpy is another test's subject
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    (tmp_path / ARRAYS).write_bytes(base64.b64decode(written["arrays"]))
    return load_bundle(tmp_path, factory=make_detector)


def test_an_old_bundle_scores_as_it_did(bundle: Bundle, written: dict[str, Any]) -> None:
    windows = bundle.scaler.windows([Series("a", 0, np.array(written["rows"], np.float32))], bundle.window)
    raw = {member.name: member.detector.score(windows) for member in bundle.members}
    np.testing.assert_allclose(bundle.calibration().surprise(bundle.ensemble.combine(raw)), written["surprises"], rtol=1e-5)
    np.testing.assert_allclose(
        bundle.newest_rows_calibration.p(bundle.newest_rows.score(windows)), written["newest_rows_p"], rtol=1e-5
    )
    np.testing.assert_allclose(bundle.attribution.shares(windows), written["attribution"], rtol=1e-4, atol=1e-6)
    assert bundle.metric_activity.moves.tolist() == written["moves"]
    assert bundle.early_change == written["early"]


def test_a_bundle_written_today_has_the_same_keys_so_that_the_version_before_reads_it(
    bundle: Bundle, written: dict[str, Any], tmp_path: Path
) -> None:
    save_bundle(bundle, tmp_path / "today")
    manifest = json.loads((tmp_path / "today" / MANIFEST).read_text())
    assert manifest == written["manifest"] | {"libraries": manifest["libraries"]}
    assert (tmp_path / "today" / ARRAYS).read_bytes() == base64.b64decode(written["arrays"])
