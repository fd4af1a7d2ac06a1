"""What the demo publishes: this machine's metrics, and before them some of the training data, for the service to warm up on."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from service.clock import SystemClock
from service.domain import Dataset
from service.settings import Settings
from service.sources.agent import run_agent
from service.sources.codecs.message import encode
from service.sources.publisher import MetricsMessage, MetricsPublisher

HZ = 20.0
WARM_UP_SECONDS = 6.0
OVERLAP_SECONDS = 2.0  # of the warm-up and the machine's own metrics, whose first row comes after up to one second


@contextlib.asynccontextmanager
async def machine_metrics(settings: Settings) -> AsyncIterator[None]:
    """This machine's metrics, published for as long as the block lasts."""
    stop = asyncio.Event()
    async with _alongside(run_agent(settings.kafka, hz=HZ, stop=stop), lambda _: stop.set()):
        yield


@contextlib.asynccontextmanager
async def warmed_up(settings: Settings, seen: Dataset) -> AsyncIterator[None]:
    """The service is scoring when the block begins: it first gets some seconds of the training data as this machine's.

    Its first scores are a burst of work, and before them it does less than at any time in the training data. Neither should be
    seen in this machine's metrics, which continue where the played rows end.
    """
    async with _alongside(_play(settings, seen), asyncio.Task.cancel):
        await asyncio.sleep(WARM_UP_SECONDS - OVERLAP_SECONDS)
        yield


@contextlib.asynccontextmanager
async def _alongside(work: Coroutine[Any, Any, object], end: Callable[[asyncio.Task[object]], object]) -> AsyncIterator[None]:
    """``work`` runs while the block does, which calls ``end(task)`` when it is left. When either fails, the other ends too, and
    its error is raised."""
    try:
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(work)
            yield
            end(task)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def _play(settings: Settings, seen: Dataset) -> None:
    """Publish the newest rows of the training data as if they were measured now. Each comes one row early: of a row that comes
    twice, the first counts."""
    values = seen.series[-1].values[-round(WARM_UP_SECONDS * HZ) :].tolist()
    interval, entity, clock = seen.schema.interval_ms, socket.gethostname(), SystemClock()
    first = clock.now_ms() // interval + 2
    publisher = MetricsPublisher(settings.kafka)
    await publisher.start()
    try:
        for row, measured in enumerate(values, start=first):
            await clock.sleep(max(0.0, ((row - 1) * interval - clock.now_ms()) / 1000))
            metrics = dict(zip(seen.schema.metrics, measured, strict=True))
            await publisher.publish([MetricsMessage(entity, encode(entity, row * interval, metrics))])
    finally:
        await publisher.close()
