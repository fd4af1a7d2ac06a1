"""What others score on one core, in the same run. A peer that is not installed is skipped by name."""

from __future__ import annotations

import importlib
import time
from collections.abc import Sequence
from typing import Any

from service.domain import F32

LEARNED, SCORED = 2000, 6000


def river_half_space_trees(values: F32) -> dict[str, float] | None:
    """Samples a second of River's HalfSpaceTrees (its defaults) on one core; None when it is not installed.

    ``samples_per_s``: scoring alone, the model stands still; ``with_learning``: scoring and then learning each sample, which is
    how an online model is used. Both on values scaled to [0, 1] beforehand, which it needs and which here costs it nothing.
    """
    try:
        anomaly: Any = importlib.import_module("river.anomaly")
    except ImportError:
        return None
    scaled = (values - values.min(axis=0)) / (values.max(axis=0) - values.min(axis=0))
    rows: Sequence[dict[str, float]] = [{f"m{j:02d}": float(value) for j, value in enumerate(row)} for row in scaled]
    trees = anomaly.HalfSpaceTrees(seed=0)
    for at in range(LEARNED):
        trees.learn_one(rows[at % len(rows)])
    began = time.perf_counter()
    for at in range(SCORED):
        trees.score_one(rows[at % len(rows)])
    scoring = time.perf_counter()
    for at in range(SCORED):
        trees.score_one(rows[at % len(rows)])
        trees.learn_one(rows[at % len(rows)])
    return {"samples_per_s": SCORED / (scoring - began), "with_learning": SCORED / (time.perf_counter() - scoring)}
