"""Samples this machine's own metrics with psutil and publishes them: real data without any set-up."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Mapping
from typing import Any

import msgspec
import psutil
import stamina

from service.clock import Clock, SystemClock
from service.errors import BrokerUnavailable
from service.progress import Progress, silent
from service.settings import KafkaSettings
from service.sources.codecs.message import encode
from service.sources.publisher import MetricsMessage, MetricsPublisher

MAX_QUEUED = 2000  # samples kept while Kafka is away; the oldest are dropped first
DRAIN_SECONDS = 10.0  # at the end, for what is still queued


class MachineReading(msgspec.Struct, frozen=True):
    """The operating system's counters at one moment (``at``: seconds, monotonic): totals that only grow, and current levels."""

    at: float
    totals: Mapping[str, float]
    levels: Mapping[str, float]
    cores: tuple[tuple[float, float], ...]  # seconds (all, idle) of each core


def read_machine() -> MachineReading:
    """Read the counters. Those the system does not provide (disks in some containers) are zero."""
    times, stats = psutil.cpu_times(), psutil.cpu_stats()
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    disk, network = psutil.disk_io_counters(), psutil.net_io_counters()
    load = psutil.getloadavg()
    states = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    totals = {f"cpu.{state}": float(getattr(times, state, 0.0)) for state in states}
    totals |= {
        "kernel.context_switches": stats.ctx_switches,
        "kernel.interrupts": stats.interrupts,
        "kernel.soft_interrupts": stats.soft_interrupts,
        "disk.read_bytes": _counter(disk, "read_bytes"),
        "disk.write_bytes": _counter(disk, "write_bytes"),
        "disk.reads": _counter(disk, "read_count"),
        "disk.writes": _counter(disk, "write_count"),
        "disk.busy": _counter(disk, "busy_time") / 1000,
        "net.received_bytes": _counter(network, "bytes_recv"),
        "net.sent_bytes": _counter(network, "bytes_sent"),
        "net.received_packets": _counter(network, "packets_recv"),
        "net.sent_packets": _counter(network, "packets_sent"),
    }
    levels = {
        "load.1m": load[0],
        "load.5m": load[1],
        "memory.used": memory.used / memory.total,
        "memory.available": memory.available / memory.total,
        "memory.cached": getattr(memory, "cached", 0) / memory.total,
        "swap.used": swap.percent / 100,
        "processes": float(len(psutil.pids())),
    }
    cores = tuple((float(sum(core)), float(core.idle + getattr(core, "iowait", 0.0))) for core in psutil.cpu_times(percpu=True))
    return MachineReading(time.monotonic(), totals, levels, cores)


def sample_machine(before: MachineReading, now: MachineReading) -> dict[str, float]:
    """Metrics between two readings: shares in [0, 1], rates a second, and levels. All finite; a counter that fell reads 0."""
    seconds = max(now.at - before.at, 1e-3)
    increase = {name: max(0.0, total - before.totals.get(name, total)) for name, total in now.totals.items()}
    cpu = {name: increase[name] for name in increase if name.startswith("cpu.")}
    all_cpu = sum(cpu.values())
    sample = {name: share / all_cpu if all_cpu else 0.0 for name, share in cpu.items()}
    sample |= {f"{name}_s": total / seconds for name, total in increase.items() if name not in cpu and name != "disk.busy"}
    sample["disk.busy"] = increase["disk.busy"] / seconds
    busy = [_busy(old, new) for old, new in zip(before.cores, now.cores, strict=False)]
    sample["cpu.busiest_core"] = max(busy, default=0.0)
    sample["cpu.laziest_core"] = min(busy, default=0.0)
    return sample | dict(now.levels)


async def run_agent(
    kafka: KafkaSettings,
    *,
    hz: float = 20.0,
    seconds: float | None = None,
    entity: str | None = None,
    stop: asyncio.Event | None = None,
    progress: Progress = silent,
    clock: Clock | None = None,
) -> int:
    """Publish this machine's metrics ``hz`` times a second until ``stop`` is set or ``seconds`` are over.

    Returns how many samples Kafka has. Samples lie on the grid of the interval, one per row; a row whose moment was missed is
    left out. While Kafka is away the newest ``MAX_QUEUED`` are kept. Raises ``BrokerUnavailable`` at the start, and
    ``ConfigError`` whenever Kafka refuses us.
    """
    clock, stop = clock or SystemClock(), stop or asyncio.Event()
    entity = entity or socket.gethostname()
    interval = max(1, round(1000 / hz))
    max_samples = 0 if seconds is None else round(seconds * 1000 / interval)
    publisher = MetricsPublisher(kafka)
    await publisher.start()
    queue: asyncio.Queue[MetricsMessage] = asyncio.Queue(MAX_QUEUED)
    published: list[int] = []  # messages of each publication
    sender = asyncio.create_task(_send_all(publisher, queue, published))
    sampled = 0
    try:
        before = read_machine()
        tick = (clock.now_ms() // interval + 1) * interval
        while not stop.is_set() and not sender.done() and (seconds is None or sampled < max_samples):
            await clock.sleep(max(0.0, (tick - clock.now_ms()) / 1000))
            now = read_machine()
            if queue.full():
                queue.get_nowait()
                queue.task_done()
            queue.put_nowait(MetricsMessage(entity, encode(entity, tick, sample_machine(before, now))))
            before = now
            sampled += 1
            progress("sampling", sampled, max_samples, entity)
            tick = max(tick + interval, clock.now_ms() // interval * interval)
        await _drain(queue, sender)
    finally:
        sender.cancel()
        await asyncio.gather(sender, return_exceptions=True)
        await publisher.close()
    return sum(published)


async def _drain(queue: asyncio.Queue[MetricsMessage], sender: asyncio.Task[None]) -> None:
    """Wait until everything queued is sent, for a bounded time: while Kafka is away it is lost. Raises what ended the sender."""
    sent = asyncio.ensure_future(queue.join())
    try:
        await asyncio.wait([sent, sender], timeout=DRAIN_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    finally:
        sent.cancel()
    if sender.done():
        sender.result()


async def _send_all(publisher: MetricsPublisher, queue: asyncio.Queue[MetricsMessage], published: list[int]) -> None:
    """Publish what is queued, until cancelled; while Kafka is away, retry the same messages. Raises ``ConfigError``."""
    while True:
        messages = [await queue.get()]
        while not queue.empty():
            messages.append(queue.get_nowait())
        async for attempt in stamina.retry_context(on=BrokerUnavailable, attempts=None, timeout=None, wait_max=2.0):
            with attempt:
                await publisher.publish(messages)
        published.append(len(messages))
        for _ in messages:
            queue.task_done()


def _busy(old: tuple[float, float], new: tuple[float, float]) -> float:
    """Share of the time in which a core was not idle."""
    (old_total, old_idle), (new_total, new_idle) = old, new
    passed = new_total - old_total
    return min(1.0, max(0.0, 1.0 - (new_idle - old_idle) / passed)) if passed > 0 else 0.0


def _counter(counters: Any, name: str) -> float:
    return float(getattr(counters, name, 0) or 0)
