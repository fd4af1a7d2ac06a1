"""From produce to visible: live load from another process, and a reader of the alert transitions under ``read_committed``.

A transition carries the offset of the record that completed its window; that record's own timestamp is when it was produced.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable
from typing import Any

import msgspec
import numpy as np
from aiokafka import AIOKafkaConsumer, TopicPartition

from bench.workload import Workload
from service.domain import Alert
from service.settings import KafkaSettings

SETTLE_SECONDS = 2.0  # at the beginning of each run, not counted: the load is still starting


async def measure(
    workload: Workload, kafka: KafkaSettings, first_row: int, rows: int, rate: float, caught_up: Awaitable[object]
) -> dict[str, float]:
    """Load ``rows`` rows at ``rate`` samples a second; latency percentiles in ms, and the rate that was reached.

    ``caught_up``: what to wait for before the last transitions are looked for.
    """
    options = {"bootstrap_servers": kafka.bootstrap_servers, "enable_auto_commit": False, "isolation_level": "read_committed"}
    alerts, metrics = AIOKafkaConsumer(**options, fetch_max_wait_ms=50), AIOKafkaConsumer(**options, max_poll_records=20_000)
    await alerts.start()
    await metrics.start()
    try:
        seen, inputs = TopicPartition(kafka.topics.alerts, 0), _partitions(kafka)
        alerts.assign([seen])
        metrics.assign(inputs)
        await alerts.seek_to_end(seen)
        await metrics.seek_to_end(*inputs)
        starts = {tp.partition: await metrics.position(tp) for tp in inputs}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bench.workload", "--servers", kafka.bootstrap_servers, "--topic", kafka.topics.metrics,
            "--entities", str(workload.entities), "--dims", str(workload.dims), "--first-row", str(first_row),
            "--rows", str(rows), "--rate", str(rate), stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        visible: list[tuple[int, int, float]] = []
        reading = asyncio.create_task(_read(alerts, seen, starts, visible))
        said, _ = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"the live load ended with status {process.returncode}")
        await caught_up
        await asyncio.sleep(2.0)
        reading.cancel()
        found = await asyncio.gather(reading, return_exceptions=True)
        if isinstance(found[0], Exception):
            raise found[0]
        produced = await _produced(metrics, inputs, starts)
    finally:
        await alerts.stop()
        await metrics.stop()
    began = min(times[0] for times in produced.values() if len(times))
    waits = []
    for partition, offset, read_at in visible:
        at = produced[partition][offset - starts[partition]]
        if at >= began + SETTLE_SECONDS * 1000:
            waits.append(read_at - at)
    told = {"rate": float(said), "transitions": float(len(waits))}
    percentiles = np.percentile(waits, [50, 99, 99.9]).tolist() if waits else [float("nan")] * 3
    return told | dict(zip(("p50_ms", "p99_ms", "p999_ms"), percentiles, strict=True))


def _partitions(kafka: KafkaSettings) -> list[Any]:
    return [TopicPartition(kafka.topics.metrics, at) for at in range(kafka.topics.partitions)]


async def _read(alerts: Any, seen: Any, starts: dict[int, int], visible: list[tuple[int, int, float]]) -> None:
    decode = msgspec.json.Decoder(Alert).decode
    while True:
        fetched = await alerts.getmany(seen, timeout_ms=200)
        now = time.time() * 1000
        for message in fetched.get(seen, ()):
            alert = decode(message.value)
            # Only openings count: a later transition may belong to a window that was completed long before.
            if alert.action == "opened" and alert.last_offset >= starts[alert.partition]:
                visible.append((alert.partition, alert.last_offset, now))


async def _produced(metrics: Any, inputs: list[Any], starts: dict[int, int]) -> dict[int, np.ndarray[Any, Any]]:
    """By partition: when each record from ``starts`` on was produced, ms."""
    ends = await metrics.end_offsets(inputs)
    times: dict[int, list[int]] = {tp.partition: [] for tp in inputs}
    while any(starts[tp.partition] + len(times[tp.partition]) < ends[tp] for tp in inputs):
        for tp, messages in (await metrics.getmany(timeout_ms=500, max_records=20_000)).items():
            for message in messages:
                if message.offset < ends[tp]:
                    times[tp.partition].append(message.timestamp)
    return {at: np.array(column, np.float64) for at, column in times.items()}
