"""The load of the throughput bench: generated metrics of many entities, as messages, and how many windows they make due.

As a script it is the live load of the latency runs: a process of its own that writes at a fixed rate with ``send_batch``.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import numpy as np
import uvloop

from service.detectors.bundle import Bundle
from service.domain import F32, I64, Dataset, Schema, Series
from service.settings import KafkaSettings
from service.sources.publisher import MetricsMessage, MetricsPublisher
from service.training.rehearsal import due_rows

Row = TypeVar("Row", int, I64)

WINDOW = 100
INTERVAL_MS = 1000
SERIES_ROWS = 3000
START_ROW = 1_700_000_000  # in the past, so that no speed can run ahead of the clock
TICK_SECONDS = 0.02
# During live load each entity has a fault for so many rows of every ``faults`` rows, one entity after the other, so that
# transitions to measure are spread evenly. One fault for each entity in all loads of the bench: a second would meet a level
# raised by the first.
FAULT_ROWS, LIVE_FAULTS = 10, 15_000


@dataclass(frozen=True)
class Workload:
    """``entities`` hosts with ``dims`` metrics each, scored every ``stride`` rows."""

    entities: int
    dims: int
    stride: int

    @property
    def name(self) -> str:
        """For tables and files."""
        return f"{self.entities}x{self.dims}s{self.stride}"

    @property
    def metrics(self) -> tuple[str, ...]:
        """Short names, so that 38 metrics come to about 450 bytes."""
        return tuple(f"m{at:02d}" for at in range(self.dims))

    @property
    def names(self) -> list[str]:
        """The entities."""
        return [f"host-{at:06d}" for at in range(self.entities)]

    def values(self) -> F32:
        """float32 (SERIES_ROWS, dims): slow drifts and noise, the same on every run."""
        rng = np.random.default_rng(7)
        drift = 0.02 * np.cumsum(rng.normal(size=(SERIES_ROWS, self.dims)), axis=0)
        return (drift + rng.normal(size=(SERIES_ROWS, self.dims))).astype(np.float32)

    def dataset(self) -> Dataset:
        """What the bundle is trained on."""
        return Dataset(Schema(self.metrics, INTERVAL_MS), [Series("host", 0, self.values())])

    def messages(self, first_row: int, rows: int, *, faults: int = 0) -> Iterator[MetricsMessage]:
        """Every entity's message of a row, then the next row; ``faults``: rows from one fault of an entity to its next, or 0."""
        values = self.values()
        calm, broken = self._texts(values), self._texts(values + 6.0) if faults else []
        heads = [f'{{"entity":"{name}","timestamp":'.encode() for name in self.names]
        entities = list(zip(self.names, heads, range(0, 37 * self.entities, 37), strict=True))
        for row in range(first_row, first_row + rows):
            stamp = str((START_ROW + row) * INTERVAL_MS).encode()
            for name, head, shift in entities:
                texts = calm
                if faults and self._fault_row(row, shift, faults) < FAULT_ROWS:
                    texts = broken
                yield MetricsMessage(name, b"%b%b%b" % (head, stamp, texts[(row + shift) % SERIES_ROWS]))

    def _texts(self, values: F32) -> list[bytes]:
        rounded = np.round(values.astype(np.float64), 3).tolist()
        return [b',"values":' + msgspec.json.encode(dict(zip(self.metrics, row, strict=True))) + b"}" for row in rounded]

    def windows(self, bundle: Bundle, rows: int, calm: int) -> int:
        """How many windows come due in all entities' first ``rows`` rows, of which the first ``calm`` are without faults."""
        values = self.values()
        series = np.stack([np.round(part.astype(np.float64), 3).astype(np.float32) for part in (values, values + 6.0)])
        row, due = np.arange(rows), 0
        for at, name in enumerate(self.names):
            broken = (row >= calm) & (self._fault_row(row, 37 * at, LIVE_FAULTS) < FAULT_ROWS)
            due += len(due_rows(bundle, name, START_ROW, series[broken.astype(np.int64), (row + 37 * at) % SERIES_ROWS]))
        return due

    @staticmethod
    def _fault_row(row: Row, shift: int, faults: int) -> Row:
        """Rows since an entity's last fault began."""
        return (row + shift * 31) % faults


async def preload(workload: Workload, kafka: KafkaSettings, rows: int, first_row: int = 0, *, faults: int = 0) -> None:
    """Write ``rows`` rows of every entity from ``first_row`` on."""
    publisher = MetricsPublisher(kafka)
    await publisher.start()
    try:
        messages = workload.messages(first_row, rows, faults=faults)
        while part := [message for _, message in zip(range(20_000), messages, strict=False)]:
            await publisher.publish(part)
    finally:
        await publisher.close()


async def load(workload: Workload, kafka: KafkaSettings, first_row: int, rows: int, rate: float) -> None:
    """Write ``rows`` rows at ``rate`` messages a second; prints the rate that was reached."""
    publisher = MetricsPublisher(kafka)
    await publisher.start()
    messages = workload.messages(first_row, rows, faults=LIVE_FAULTS)
    total, sent, began = rows * workload.entities, 0, time.monotonic()
    try:
        while sent < total:
            wanted = min(total, int((time.monotonic() - began + TICK_SECONDS) * rate))
            await publisher.publish([next(messages) for _ in range(min(wanted - sent, 20_000))])
            sent = min(wanted, sent + 20_000)
            await asyncio.sleep(max(0.0, began + sent / rate - time.monotonic()))
        print(sent / (time.monotonic() - began))
    finally:
        await publisher.close()


def main() -> None:
    """The live load."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", required=True)
    parser.add_argument("--topic", required=True)
    for name in ("entities", "dims", "first-row", "rows"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    told = parser.parse_args()
    kafka = KafkaSettings.model_validate({"bootstrap_servers": told.servers, "topics": {"metrics": told.topic}})
    uvloop.run(load(Workload(told.entities, told.dims, 1), kafka, told.first_row, told.rows, told.rate))


if __name__ == "__main__":
    main()
