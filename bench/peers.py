"""Other libraries' speed on one core, in the same run. One that is not installed is skipped by name."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from service.domain import F32

LEARNED, SCORED = 1000, 6000


def river_half_space_trees(values: F32) -> dict[str, float] | None:
    """Samples a second of River's HalfSpaceTrees on one core; None when it is not installed.

    ``scoring``: a forest of 50 trees, as many as the Random Cut Forest that it is usually compared with, scores without learning;
    ``default_scoring``: the same with River's default of 10 trees; ``default_learning``: those score and then learn each sample,
    which is how an online model is used. On values scaled to [0, 1] beforehand, which it needs and which here costs it nothing.
    """
    try:
        anomaly: Any = importlib.import_module("river.anomaly")
    except ImportError:
        return None
    scaled = (values - values.min(axis=0)) / (values.max(axis=0) - values.min(axis=0))
    rows: Sequence[dict[str, float]] = [{f"m{j:02d}": float(value) for j, value in enumerate(row)} for row in scaled]
    few, many = anomaly.HalfSpaceTrees(seed=0), anomaly.HalfSpaceTrees(n_trees=50, seed=0)
    for at in range(LEARNED):
        few.learn_one(rows[at % len(rows)])
        many.learn_one(rows[at % len(rows)])

    def rate(do: Callable[[dict[str, float]], object]) -> float:
        began = time.perf_counter()
        for at in range(SCORED):
            do(rows[at % len(rows)])
        return SCORED / (time.perf_counter() - began)

    def score_and_learn(row: dict[str, float]) -> None:
        few.score_one(row)
        few.learn_one(row)

    return {"scoring": rate(many.score_one), "default_scoring": rate(few.score_one), "default_learning": rate(score_and_learn)}
