"""``tidewatch demo``: the service at work on this machine, explained act by act.

Everything is real: Kafka, Elasticsearch, the metrics, the fault, the service as operators run it (a process of its own), and the
receivers, which are a small HTTP server and a small mail server on the loopback. All of it ends with the demo.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.text import Text

from service.alerts.history.reader import AlertHistory
from service.app import build_alert_store, make_detector
from service.demo.config import config, warm_up_config
from service.demo.fault import machine_fault
from service.demo.feeds import HZ, machine_metrics, warmed_up
from service.demo.lessons import learnable, split_data
from service.demo.messages import show_messages
from service.demo.receivers import HttpReceiver, MailReceiver
from service.demo.service import ServiceProcess
from service.demo.stage import READY_SECONDS, WAIT_SECONDS, Stage
from service.detectors.bundle import Bundle, save_bundle
from service.domain import Dataset
from service.local.stack import LocalStack
from service.progress import Progress, silent
from service.settings import Settings
from service.sources.replay import replay
from service.state.topics import create_topics
from service.terminal import bundle_table, history_table, progress_bar, working
from service.training.train import train

FIRST_SECONDS = 12.0
LEARN_SECONDS = 75.0
START_SECONDS = 3.0  # of the service: the metrics of its start-up are not learned
FAULT_SECONDS = 15.0
SETTLE_SECONDS = 8.0
ROOM_SECONDS = 60.0  # after which the level has come down and the budget allows another alert
REPLAY_SECONDS = 45.0  # how long a data set is replayed when no speed is asked for


class SplitData(NamedTuple):
    """A data set to replay: the older part is learned, the newer one watched."""

    name: str
    past: Dataset
    coming: Dataset


async def play(console: Console, *, data: Path | None = None, speed: float | None = None) -> None:
    """Play the demo. Raises ``Stop`` with what to do when a part of it cannot work here."""
    playing = asyncio.current_task()
    assert playing is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, playing.cancel)  # as Ctrl-C: stop what was started, then end
    replayed = None if data is None else SplitData(data.name, *split_data(data))  # before anything starts: it may be unreadable
    folder = Path(tempfile.mkdtemp(prefix="tidewatch-demo-"))
    try:
        async with HttpReceiver() as slack, MailReceiver() as inbox:
            stage = Stage(console, folder, LocalStack(folder / "local"), slack, inbox, live=replayed is None)
            try:
                await _acts(stage, replayed, speed)
            finally:
                with working("Stopping everything", on=console):
                    await asyncio.to_thread(stage.stack.down)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _acts(stage: Stage, replayed: SplitData | None, speed: float | None) -> None:
    stage.act(1, "A real Kafka and a real Elasticsearch")
    with progress_bar(stage.console) as progress:
        await asyncio.to_thread(stage.stack.up, progress)
    settings = Settings(**config(stage))
    await create_topics(settings.kafka)
    store = build_alert_store(settings)
    await store.install_templates()
    await store.close()
    stage.print_text(
        f"Kafka runs at {stage.stack.kafka_servers}, Elasticsearch at {stage.stack.elasticsearch_url}. "
        "Topics and index templates are created."
    )
    if replayed is None:
        await _watch_this_machine(stage, settings)
    else:
        await _replay_data(stage, settings, replayed, speed)
    stage.act(6, "The messages that the receivers got")
    show_messages(stage.console, stage.slack.accepted, stage.inbox.accepted)
    stage.act(7, "The alert history, queried from Elasticsearch")
    await _show_history(stage, settings)


async def _watch_this_machine(stage: Stage, settings: Settings) -> None:
    """Learn this machine's metrics while the service runs, since its load is part of normal operation; then cause a fault."""
    stage.act(2, f"This machine's own metrics, for {LEARN_SECONDS:g} seconds of normal operation")
    async with machine_metrics(settings):
        await stage.wait("collecting data for a first, rough model", FIRST_SECONDS)
        first = await learnable(settings, FIRST_SECONDS, HZ)
        await asyncio.to_thread(save_bundle, await asyncio.to_thread(_learn, settings, first, "first"), stage.folder / "first")
        await create_topics(Settings(**warm_up_config(stage)).kafka)
        async with ServiceProcess(warm_up_config(stage), stage.folder) as service:
            with working("Starting the service with that model", on=stage.console):
                await service.ready(READY_SECONDS)
            await stage.wait("collecting data while the service runs", LEARN_SECONDS)
            stage.act(3, "Training on the collected data")
            seen = await learnable(settings, LEARN_SECONDS - START_SECONDS, HZ)
            stage.print_text(
                f"{len(seen.schema.metrics)} metrics are learned. Levels (load, memory) and metrics that hardly moved are left "
                "out: a minute is too short to learn what is normal for them."
            )
            await _train(stage, settings, seen)
    stage.act(4, "The service, as you would run it: tidewatch run")
    async with ServiceProcess(config(stage), stage.folder) as service:
        with working("Waiting until it is ready", on=stage.console):
            await service.ready(READY_SECONDS)
        async with warmed_up(settings, seen), machine_metrics(settings):
            await stage.wait("normal operation", SETTLE_SECONDS)
            if stage.slack.accepted:
                stage.print_text(
                    "An alert fired already, about something else on this machine. "
                    "Waiting until it has resolved and the alert budget allows another."
                )
                await stage.delivered("resolved")
                await stage.wait("normal operation again", ROOM_SECONDS)
            await _cause_fault(stage)


async def _cause_fault(stage: Stage) -> None:
    before = stage.received()
    stage.act(5, f"A real fault, for {FAULT_SECONDS:g} seconds")
    stage.print_text("A runaway job loads every core, memory, disk and network.")
    with machine_fault(FAULT_SECONDS):
        started = time.monotonic()
        with working("The machine is under load; waiting for the alert", on=stage.console):
            await stage.delivered("firing", before)
        seconds = time.monotonic() - started
        fired = f" and reached both receivers {seconds:.1f} s after the fault began."
        stage.print_text(Text.assemble(("The alert fired", "bold red"), fired))
        await stage.wait("the fault goes on", FAULT_SECONDS - seconds)
    ended = time.monotonic()
    with working("The fault is over; waiting for the alert to resolve", on=stage.console):
        await stage.delivered("resolved", before)
    resolved = f" {time.monotonic() - ended:.1f} s after the fault ended."
    stage.print_text(Text.assemble(("The alert resolved", "bold green"), resolved))


async def _replay_data(stage: Stage, settings: Settings, replayed: SplitData, rows_a_second: float | None) -> None:
    coming = replayed.coming
    stage.act(2, f"A data set: {replayed.name}")
    stage.act(3, "Training on its older part")
    await _train(stage, settings, replayed.past)
    stage.act(4, "The service, as you would run it: tidewatch run")
    async with ServiceProcess(config(stage), stage.folder) as service:
        with working("Waiting until it is ready", on=stage.console):
            await service.ready(READY_SECONDS)
        longest = max(len(series.values) for series in coming.series)
        rows_a_second = rows_a_second or longest / REPLAY_SECONDS
        stage.act(5, f"Its newer part: {longest:,} rows, at {rows_a_second:,.0f} rows a second")
        speed = rows_a_second * coming.schema.interval_ms / 1000
        with progress_bar(stage.console) as show:
            await replay(coming, settings.kafka, speed=speed, rebase=True, progress=show)
        with working("Waiting until everything is scored and sent", on=stage.console):
            async with asyncio.timeout(WAIT_SECONDS):
                while await service.lag():
                    await asyncio.sleep(0.5)
            await asyncio.sleep(SETTLE_SECONDS)


async def _train(stage: Stage, settings: Settings, dataset: Dataset) -> None:
    def work(show: Progress) -> Bundle:
        bundle = _learn(settings, dataset, "demo", show)
        save_bundle(bundle, stage.folder / "bundle")
        return bundle

    with progress_bar(stage.console) as show:
        bundle = await asyncio.to_thread(work, show)
    stage.console.print(bundle_table(bundle, stage.folder / "bundle"))


def _learn(settings: Settings, dataset: Dataset, name: str, show: Progress = silent) -> Bundle:
    training = settings.training
    return train(dataset, training, name=name, detectors=training.detectors, factory=make_detector, progress=show)


async def _show_history(stage: Stage, settings: Settings) -> None:
    history = AlertHistory(settings.elasticsearch)
    try:
        await history.refresh()
        stage.console.print(history_table(await history.find(limit=20, told_only=True)))
    finally:
        await history.close()
