"""The interface of a detector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from service.detectors.features.windows import Features
from service.domain import F64
from service.progress import Progress, silent


class Detector(Protocol):
    """Scores windows; calibration and the alert budget, not the detector, decide what is anomalous.

    A detector is one file in ``detectors/members/`` and one line in ``app.DETECTORS``. It never sees a label. Scoring is
    deterministic and free of side effects, so it may run in several threads at once. A class attribute ``takes`` (optional) names
    the settings of the section ``training`` that it takes as options. ``examples/custom_detector.py`` is a complete one.
    """

    name: str

    def fit(self, features: Features, *, progress: Progress = silent) -> None:
        """Learn from normal windows. Raises ``NotEnoughData`` naming the least number of windows it needs."""
        ...

    def score(self, features: Features) -> F64:
        """Float64 (n,): one raw score per window, higher is stranger. Raises ``RuntimeError`` when not fitted."""
        ...

    def attribute(self, features: Features) -> F64:
        """Float64 (n, dims), non-negative: how much each metric contributed to each window's score."""
        ...

    def state(self) -> tuple[Mapping[str, Any], Mapping[str, NDArray[Any]]]:
        """The trained state for the bundle: JSON-safe settings and plain arrays (no objects, no pickle)."""
        ...

    def restore(self, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """The inverse of ``state``; scores are bit-equal afterwards."""
        ...
