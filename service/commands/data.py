"""``tidewatch replay`` and ``tidewatch agent``: publish metrics to the metrics topic."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from service.commands.common import ConfigOption, Interval, milliseconds, read_settings, run_async
from service.progress import Progress
from service.runtime import stop_on_signals
from service.settings import Settings
from service.terminal import print_text, progress_bar, working


class SplitChoice(StrEnum):
    """The parts of an npz archive."""

    TRAIN = "train"
    TEST = "test"
    ALL = "all"


def register(app: typer.Typer) -> None:
    """Add this file's commands to ``app``."""
    app.command("replay", epilog="Example: tidewatch replay machine-1-1.npz --split test --speed 600")(replay_file)
    app.command("agent", epilog="Example: tidewatch agent --hz 1 --entity web-3")(agent)


def replay_file(
    data: Annotated[Path, typer.Argument(help="A data set: npz, csv, parquet or jsonl.")],
    speed: Annotated[
        float, typer.Option(min=0, help="1 is as fast as it happened, 60 is an hour a minute, 0 is as fast as Kafka takes it.")
    ] = 1.0,
    split: Annotated[SplitChoice, typer.Option(help="Which part of an npz archive.")] = SplitChoice.ALL,
    rebase: Annotated[bool, typer.Option("--rebase", help="Shift all timestamps so that the last row is due at the end.")] = False,
    interval: Interval = None,
    config: ConfigOption = None,
) -> None:
    """Publish a data set to the metrics topic. An npz archive holds no times, so its rows are always shifted to now."""
    from service.sources.files import read_dataset
    from service.sources.replay import replay

    settings = read_settings(config, quiet=True)
    with working(f"Reading {data.name}"):
        dataset = read_dataset(data, split=split.value, interval_ms=milliseconds(interval))
    with progress_bar() as show:
        published = run_async(replay(dataset, settings.kafka, speed=speed, rebase=rebase, progress=show))
    print_text(f"Published {published:,} messages of {len(dataset.series):,} entities to {settings.kafka.topics.metrics}.")


def agent(
    hz: Annotated[float, typer.Option(min=0.01, max=100, help="Samples a second.")] = 20.0,
    entity: Annotated[
        str | None, typer.Option(help="Entity to publish under. Default: this host's name.", show_default=False)
    ] = None,
    seconds: Annotated[float | None, typer.Option(help="Stop after this long. Default: on Ctrl-C.", show_default=False)] = None,
    config: ConfigOption = None,
) -> None:
    """Publish this machine's own metrics: CPU, load, memory, disk, network, context switches."""
    settings = read_settings(config, quiet=True)
    with progress_bar() as show:
        sent = run_async(_sample(settings, hz, entity, seconds, show))
    print_text(f"Published {sent:,} samples to {settings.kafka.topics.metrics}.")


async def _sample(settings: Settings, hz: float, entity: str | None, seconds: float | None, show: Progress) -> int:
    from service.sources.agent import run_agent

    stop = asyncio.Event()
    with stop_on_signals(stop):
        return await run_agent(settings.kafka, hz=hz, entity=entity, seconds=seconds, stop=stop, progress=show)
