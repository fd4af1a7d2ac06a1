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
from service.sources.publisher import MetricsMessage, MetricsPublisher

HZ = 20.0
WARM_UP_SECONDS = 6.0
OVERLAP_SECONDS = 2.0  # of the warm-up and the machine's own metrics, whose first row takes up to one


@contextlib.asynccontextmanager
async def machine_metrics(settings: Settings) -> AsyncIterator[None]:
    """This machine's metrics, published for as long as the block lasts."""
    stop = asyncio.Event()
    task = asyncio.create_task(run_agent(settings.kafka, hz=HZ, stop=stop))
    try:
        yield
    finally:
        stop.set()
        await task


@contextlib.asynccontextmanager
async def warmed_up(settings: Settings, seen: Dataset) -> AsyncIterator[None]:
    """The service is at work when the block begins: some seconds of what was learned are played to it as this machine's.

    Its first scores are a burst of work, and before them it is quieter than it ever was in the minute learned from: neither is
    to be seen in this machine's metrics. They go on where the played rows end.
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
    """The newest learned rows, as if they were of now; each comes a row ahead of its time, since of a row that comes twice the
    first counts."""
    values = seen.series[-1].values[-round(WARM_UP_SECONDS * HZ) :].tolist()
    interval, entity, clock = seen.schema.interval_ms, socket.gethostname(), SystemClock()
    first = clock.now_ms() // interval + 2
    publisher = MetricsPublisher(settings.kafka)
    await publisher.start()
    try:
        for row, told in enumerate(values, start=first):
            await clock.sleep(max(0.0, ((row - 1) * interval - clock.now_ms()) / 1000))
            metrics = dict(zip(seen.schema.metrics, told, strict=True))
            await publisher.publish([MetricsMessage(entity, encode(entity, row * interval, metrics))])
    finally:
        await publisher.close()
