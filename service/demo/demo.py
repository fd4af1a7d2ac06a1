"""``tidewatch demo``: the whole path on this machine, told as it happens.

Everything is real: Kafka, Elasticsearch, the metrics, the fault, the service as people run it (its own process), and the
receivers, which are a small HTTP server and a small mail server on the loopback. All of it ends with the demo.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.rule import Rule

from service.alerts.history.reader import AlertHistory
from service.app import build_alert_store, make_detector
from service.demo.fault import machine_fault
from service.demo.feeds import HZ, machine_metrics, warmed_up
from service.demo.lessons import learnable, split_data
from service.demo.messages import is_over, show_messages
from service.demo.receivers import HttpReceiver, MailReceiver
from service.demo.service import ServiceProcess
from service.detectors.bundle import Bundle, save_bundle
from service.domain import Dataset
from service.errors import LocalStackError
from service.local.stack import LocalStack
from service.progress import Progress, silent
from service.settings import Settings, TopicSettings
from service.sources.replay import replay
from service.state.topics import create_topics
from service.terminal import bundle_table, history_table, progress_bar
from service.training.train import train

FIRST_SECONDS = 12.0
LEARN_SECONDS = 75.0
START_SECONDS = 3.0  # after which the service has found its stride
FAULT_SECONDS = 15.0
SETTLE_SECONDS = 8.0
WAIT_SECONDS = 60.0
REPLAY_SECONDS = 45.0  # how long a replayed data set should take when no speed is asked for
# A window of one second, so that a minute holds enough of them to calibrate on.
TRAINING = {"window": 20, "stride": 5, "epochs": 30, "calibration_share": 0.4}
# One a minute: its calibration knows nothing rarer than one window in some 280, four of which come in a second.
FALSE_ALARMS_PER_DAY = 1440.0
ROOM_SECONDS = 60.0  # after which the level is down again and the budget has room for another alert


Replayed = tuple[str, Dataset, Dataset]  # its name, what to learn from, what to watch


@dataclass(frozen=True)
class Stage:
    """What the demo built, for its acts to play on."""

    console: Console
    folder: Path
    stack: LocalStack
    slack: HttpReceiver
    inbox: MailReceiver
    live: bool  # this machine's own metrics, not a data set


async def play(console: Console, *, data: Path | None = None, speed: float | None = None) -> None:
    """Play the demo. Raises ``Stop`` with what to do when a part of it cannot work here."""
    playing = asyncio.current_task()
    assert playing is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, playing.cancel)  # as Ctrl-C: stop what was started, then end
    replayed = None if data is None else (data.name, *split_data(data))  # a file that cannot be read is told at once
    folder = Path(tempfile.mkdtemp(prefix="tidewatch-demo-"))
    try:
        async with HttpReceiver() as slack, MailReceiver() as inbox:
            stage = Stage(console, folder, LocalStack(folder / "local"), slack, inbox, live=replayed is None)
            try:
                await _acts(stage, replayed, speed)
            finally:
                with console.status("Stopping everything"):
                    await asyncio.to_thread(stage.stack.down)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _acts(stage: Stage, replayed: Replayed | None, speed: float | None) -> None:
    say = stage.console.print
    _act(stage, 1, "A real Kafka and a real Elasticsearch")
    with progress_bar(stage.console) as progress:
        await asyncio.to_thread(stage.stack.up, progress)
    settings = Settings(**_config(stage))
    await create_topics(settings.kafka)
    store = build_alert_store(settings)
    await store.install_templates()
    await store.close()
    say(f"Kafka at {stage.stack.kafka_servers}, Elasticsearch at {stage.stack.elasticsearch_url}; topics and templates made.")
    if replayed is None:
        await _watch_this_machine(stage, settings)
    else:
        await _replay_data(stage, settings, replayed, speed)
    _act(stage, 6, "What people got")
    show_messages(stage.console, stage.slack.accepted, stage.inbox.accepted)
    _act(stage, 7, "What the history says (a query to Elasticsearch)")
    await _show_history(stage, settings)


async def _watch_this_machine(stage: Stage, settings: Settings) -> None:
    """The service is at work while the model is learned: its own load is a part of this machine's normal life."""
    _act(stage, 2, f"This machine's own metrics, {HZ:g} times a second, for {LEARN_SECONDS:g} seconds of normal life")
    async with machine_metrics(settings):
        await _wait(stage, "a first look, for a first model", FIRST_SECONDS)
        first = await learnable(settings, FIRST_SECONDS, HZ)
        await asyncio.to_thread(save_bundle, await asyncio.to_thread(_learn, settings, first, "first"), stage.folder / "first")
        await create_topics(Settings(**_rehearsal(stage)).kafka)
        async with ServiceProcess(_rehearsal(stage), stage.folder) as service:
            with stage.console.status("Starting the service with it"):
                await service.ready(WAIT_SECONDS)
            await _wait(stage, "watching, with the service at work", LEARN_SECONDS)
            _act(stage, 3, "Training on what was seen")
            seen = await learnable(settings, LEARN_SECONDS - START_SECONDS, HZ)
            kept = len(seen.schema.metrics)
            say = stage.console.print
            say(f"{kept} metrics. Left out: levels (load, memory), and what hardly moved. A minute is too short to learn those.")
            await _train(stage, settings, seen)
    _act(stage, 4, "The service, as anyone would run it: tidewatch run")
    async with ServiceProcess(_config(stage), stage.folder) as service:
        with stage.console.status("Waiting until it is ready"):
            await service.ready(WAIT_SECONDS)
        async with warmed_up(settings, seen), machine_metrics(settings):
            await _wait(stage, "all is well", SETTLE_SECONDS)
            if stage.slack.accepted:
                stage.console.print("Something else was unusual already; waiting until it is over and the budget has room again.")
                await _delivered(stage, "resolved")
                await _wait(stage, "all is well again", ROOM_SECONDS)
            await _cause_fault(stage)


async def _cause_fault(stage: Stage) -> None:
    say = stage.console.print
    before = len(stage.slack.accepted), len(stage.inbox.accepted)
    _act(stage, 5, f"A real fault: a job run wild, on every core, memory, disk and network, for {FAULT_SECONDS:g} seconds")
    with machine_fault(FAULT_SECONDS):
        started = time.monotonic()
        with stage.console.status("The machine is under load; waiting for the alert"):
            await _delivered(stage, "firing", before)
        say(f"[bold red]The alert fired[/] and reached both receivers {time.monotonic() - started:.1f} s after the fault began.")
        await _wait(stage, "the fault goes on", FAULT_SECONDS - (time.monotonic() - started))
    ended = time.monotonic()
    with stage.console.status("The fault is over; waiting for the alert to resolve"):
        await _delivered(stage, "resolved", before)
    say(f"[bold green]The alert resolved[/] {time.monotonic() - ended:.1f} s after the fault ended.")


async def _replay_data(stage: Stage, settings: Settings, replayed: Replayed, rows_a_second: float | None) -> None:
    name, past, coming = replayed
    _act(stage, 2, f"A data set: {name}")
    _act(stage, 3, "Training on its older part")
    await _train(stage, settings, past)
    _act(stage, 4, "The service, as anyone would run it: tidewatch run")
    async with ServiceProcess(_config(stage), stage.folder) as service:
        with stage.console.status("Waiting until it is ready"):
            await service.ready(WAIT_SECONDS)
        longest = max(len(series.values) for series in coming.series)
        rows_a_second = rows_a_second or longest / REPLAY_SECONDS
        _act(stage, 5, f"Its newer part, {longest:,} rows, at {rows_a_second:,.0f} rows a second")
        speed = rows_a_second * coming.schema.interval_ms / 1000
        with progress_bar() as show:
            await replay(coming, settings.kafka, speed=speed, rebase=True, progress=show)
        with stage.console.status("Waiting until everything is scored and told"):
            async with asyncio.timeout(WAIT_SECONDS):
                while await service.lag():
                    await asyncio.sleep(0.5)
            await asyncio.sleep(SETTLE_SECONDS)


async def _train(stage: Stage, settings: Settings, dataset: Dataset) -> None:
    def work(show: Progress) -> Bundle:
        bundle = _learn(settings, dataset, "demo", show)
        save_bundle(bundle, stage.folder / "bundle")
        return bundle

    with progress_bar() as show:
        bundle = await asyncio.to_thread(work, show)
    stage.console.print(bundle_table(bundle, stage.folder / "bundle", settings.alerts.bounds))


def _learn(settings: Settings, dataset: Dataset, name: str, show: Progress = silent) -> Bundle:
    told = settings.training
    return train(dataset, told, name=name, detectors=told.detectors, factory=make_detector, progress=show)


def _rehearsal(stage: Stage) -> dict[str, Any]:
    """The same service with the first model, which tells nobody and whose alerts are no part of the history."""
    settings = _config(stage)
    own = {field: f"rehearsal.{field}" for field, told in TopicSettings.model_fields.items() if told.annotation is str}
    settings["kafka"] |= {"group_prefix": "rehearsal", "topics": {"partitions": 1, **own, "metrics": "metrics"}}
    settings["elasticsearch"] |= {"index_prefix": "rehearsal"}
    settings["models"] = [{"match": "*", "bundle": str(stage.folder / "first")}]
    # Hardly ever an alarm: storing the first would make an index, a burst of work that is not this machine's normal life.
    settings["detection"] = {"budget": {"false_alarms_per_entity_day": 0.01}}
    return {name: told for name, told in settings.items() if name != "notifications"}


def _config(stage: Stage) -> dict[str, Any]:
    """The settings people would write into a file for this."""
    slack = {"name": "slack", "type": "slack", "url": f"{stage.slack.url}services/demo", "allow_http": True}
    mail = {"name": "email", "type": "email", "to": ["oncall@example.org"], "tls": "none", "port": stage.inbox.port}
    route = {"receivers": ["slack", "email"], "group_by": ["entity"], "group_wait_seconds": 0.5, "group_interval_seconds": 2}
    settings: dict[str, Any] = {
        "kafka": {"bootstrap_servers": stage.stack.kafka_servers, "topics": {"partitions": 1}},
        "elasticsearch": {"url": stage.stack.elasticsearch_url},
        "models": [{"match": "*", "bundle": str(stage.folder / "bundle")}],
        # Not from the beginning: that was learned from.
        "stream": {"start_from": "latest"},
        "notifications": {"receivers": [slack, mail], "routes": [route]},
        "data_health": {"still_metrics": False, "empty_metrics": False},  # a minute is too short to know what usually moves
    }
    if stage.live:
        settings |= {"training": TRAINING, "detection": {"budget": {"false_alarms_per_entity_day": FALSE_ALARMS_PER_DAY}}}
    return settings


async def _wait(stage: Stage, what: str, seconds: float) -> None:
    """Let time pass, showing how much."""
    if seconds <= 0:
        return
    steps = max(1, round(seconds * 4))
    with Bars(TextColumn(f"  {what}"), BarColumn(), TimeRemainingColumn(), console=stage.console, transient=True) as bar:
        task = bar.add_task(what, total=steps)
        for _ in range(steps):
            await asyncio.sleep(seconds / steps)
            bar.advance(task)


async def _delivered(stage: Stage, status: str, before: tuple[int, int] = (0, 0)) -> None:
    """Wait until both receivers have a message about an alert that is ``status``, not counting as many as they had ``before``.

    Raises ``LocalStackError`` when none comes.
    """
    over = status == "resolved"
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            while not (
                any(is_over(posted.json()["text"]) == over for posted in stage.slack.accepted[before[0] :])
                and any(is_over(str(mail.message["Subject"])) == over for mail in stage.inbox.accepted[before[1] :])
            ):
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise LocalStackError(
            f"No {status} alert reached the receivers within {WAIT_SECONDS:g} s.",
            hint="This machine may have been as busy while the model was trained; run the demo again when it is calmer.",
        ) from None


async def _show_history(stage: Stage, settings: Settings) -> None:
    history = AlertHistory(settings.elasticsearch)
    try:
        await history.refresh()
        stage.console.print(history_table(await history.find(limit=20, told_only=True)))
    finally:
        await history.close()


def _act(stage: Stage, number: int, title: str) -> None:
    stage.console.print(Rule(f"[bold]{number} of 7[/]  {title}", align="left"))
