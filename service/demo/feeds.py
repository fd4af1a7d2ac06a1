"""What the demo publishes: this machine's metrics, and before them a piece of what was learned, for the service to warm up on."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from service.clock import SystemClock
from service.domain import Dataset
from service.settings import Settings
from service.sources.agent import run_agent
from service.sources.codecs.message import encode
from service.sources.publisher import Message, MetricsPublisher

HZ = 20.0
WARM_UP = "warm-up"
WARM_UP_SECONDS = 6.0
OVERLAP_SECONDS = 1.5  # of the warm-up and the machine's own metrics, whose first window takes one
TOGETHER = 5  # rows of the warm-up in one batch: twice as many batches as usual would be unusual themselves


@contextlib.asynccontextmanager
async def machine_metrics(settings: Settings) -> AsyncIterator[None]:
    """This machine's metrics, published for as long as the block lasts."""
    stop = asyncio.Event()
    task = asyncio.create_task(run_agent(settings.kafka, hz=HZ, entity=socket.gethostname(), stop=stop))
    try:
        yield
    finally:
        stop.set()
        await task


@contextlib.asynccontextmanager
async def warmed_up(settings: Settings, seen: Dataset) -> AsyncIterator[None]:
    """The service is at work when the block begins: some seconds of what was learned are played to it under another name.

    Its first scores are a burst of work, and before them it is quieter than it ever was in the minute learned from: neither is
    to be seen in this machine's metrics.
    """
    playing = asyncio.create_task(_play(settings, seen))
    try:
        await asyncio.sleep(WARM_UP_SECONDS - OVERLAP_SECONDS)
        yield
    finally:
        playing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await playing


async def _play(settings: Settings, seen: Dataset) -> None:
    """The newest learned rows, as if they were of now."""
    values = seen.series[-1].values[-round(WARM_UP_SECONDS * HZ) :]
    interval = seen.schema.interval_ms
    first = SystemClock().now_ms() // interval - TOGETHER
    publisher = MetricsPublisher(settings.kafka)
    await publisher.start()
    try:
        for at in range(0, len(values), TOGETHER):
            rows = values[at : at + TOGETHER].tolist()
            told = [((first + at + i) * interval, dict(zip(seen.schema.metrics, row, strict=True))) for i, row in enumerate(rows)]
            await publisher.publish([Message(WARM_UP, encode(WARM_UP, timestamp, metrics)) for timestamp, metrics in told])
            await asyncio.sleep(TOGETHER / HZ)
    finally:
        await publisher.close()
