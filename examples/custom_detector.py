"""A detector of your own: a class with the five methods of ``service.detectors.base.Detector``, and one line in ``DETECTORS``.

It sees scaled windows through ``Features`` and returns a raw score for each; scaling, calibration, the alert budget and alerts are
done for it. In the repository the class is a file in ``service/detectors/members/`` and the line stands in ``service/app.py``; this
example adds the line at run time, trains a bundle with the detector and scores a fault.

python examples/custom_detector.py
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service import RealTimeAnomalyDetector
from service.app import DETECTORS
from service.detectors.features.windows import Features
from service.domain import F64
from service.errors import NotEnoughData
from service.progress import Progress, silent


class LargestMove:
    """Scores a window by the largest distance of any metric's newest value from its usual centre, in units of its usual scale."""

    def __init__(self, *, name: str | None = None) -> None:
        """``name``: as named in the settings."""
        self.name = name or "largest_move"
        self.usual = 1.0

    def fit(self, features: Features, *, progress: Progress = silent) -> None:
        """Learn the largest distance of normal windows. Raises ``NotEnoughData`` under 10 windows."""
        if len(features) < 10:
            raise NotEnoughData("largest_move needs at least 10 windows.")
        self.usual = float(np.abs(features.last).max())

    def score(self, features: Features) -> F64:
        """Float64 (n,), higher is stranger."""
        scores: F64 = np.abs(features.last).max(axis=1).astype(np.float64) / self.usual
        return scores

    def attribute(self, features: Features) -> F64:
        """Float64 (n, dims): each metric's distance."""
        return np.abs(features.last).astype(np.float64)

    def state(self) -> tuple[Mapping[str, Any], Mapping[str, NDArray[Any]]]:
        """What the bundle keeps."""
        return {"usual": self.usual}, {}

    def restore(self, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """The inverse of ``state``."""
        self.usual = float(settings["usual"])


async def stream() -> AsyncIterator[np.ndarray]:
    """Normal rows; from row 150 on the second metric is far off."""
    values = np.random.default_rng(1).normal(size=(200, 3))
    values[150:, 1] += 25
    for row in values:
        yield row


async def main() -> None:
    """Train with the detector alone and print the first anomalous window."""
    DETECTORS["largest_move"] = f"{__name__}:LargestMove"
    detector = RealTimeAnomalyDetector(
        {
            "window_size": 20,
            "stride": 5,
            "metrics": ["a", "b", "c"],
            "training": {"detectors": {"largest_move": 1.0}},
        }
    )
    detector.fit(np.random.default_rng(0).normal(size=(1500, 3)))
    found = [result async for result in detector.process_stream(stream()) if result.is_anomaly]
    if found:
        print(f"row {found[0].end_row}: {found[0].metrics[0].name}, score {found[0].score:.2f}")


if __name__ == "__main__":
    asyncio.run(main())
