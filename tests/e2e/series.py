"""A generated series with a fault that anyone would call one: correlated metrics, then a level that jumps on two of them."""

from __future__ import annotations

import numpy as np

from service.domain import F32

METRICS = ("cpu", "memory", "requests", "latency", "errors", "queue")
FAULT = slice(700, 780)


def normal(rows: int, seed: int) -> F32:
    """(rows, 6): a slow common wave, and noise of each metric's own."""
    rng = np.random.default_rng(seed)
    wave = np.sin(np.arange(rows) / 40)[:, None] * np.array([1.0, 0.2, 1.5, 0.6, 0.1, 0.8])
    return np.asarray(wave + rng.normal(0, 0.3, (rows, len(METRICS))) + np.arange(1, 7), np.float32)


def with_fault(rows: int = 1200, seed: int = 2) -> F32:
    """Normal life with ``FAULT`` in it: latency and errors far above what they ever were."""
    values = normal(rows, seed)
    values[FAULT, 3] += 6.0
    values[FAULT, 4] += 4.0
    return values
