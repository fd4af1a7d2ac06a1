"""Tidewatch as a library: learn from normal rows, then score a stream of rows, without Kafka or any other server.

python examples/library.py
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np

from service import RealTimeAnomalyDetector

METRICS = ["cpu", "memory", "requests", "latency"]
FAULT = slice(300, 340)  # rows of the stream


def rows(count: int, seed: int) -> np.ndarray:
    """Normal rows (count, metrics): a slow common wave and noise of each metric's own."""
    rng = np.random.default_rng(seed)
    wave = np.sin(np.arange(count) / 40)[:, None] * np.array([1.0, 0.2, 1.5, 0.6])
    return np.asarray(wave + rng.normal(0, 0.3, (count, len(METRICS))) + np.arange(1, 5), np.float32)


async def stream() -> AsyncIterator[np.ndarray]:
    """One row at a time, as metrics arrive; latency rises far above normal in the rows of ``FAULT``."""
    values = rows(500, seed=2)
    values[FAULT, METRICS.index("latency")] += 8.0
    for row in values:
        yield row


async def main() -> None:
    """Print every anomalous window: its last row, severity, score and the metrics that caused it."""
    detector = RealTimeAnomalyDetector(
        {
            "window_size": 40,
            "stride": 5,
            "metrics": METRICS,
            "training": {"detectors": {"mahalanobis": 1.0}},  # leave this out for the default ensemble
        }
    )
    detector.fit(rows(2000, seed=1))
    async for result in detector.process_stream(stream()):
        if result.is_anomaly:
            names = ", ".join(metric.name for metric in result.metrics[:2])
            print(f"row {result.end_row}: {result.severity}, score {result.score:.2f}, mainly {names}")


if __name__ == "__main__":
    asyncio.run(main())
