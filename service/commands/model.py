"""``tidewatch train`` and ``tidewatch evaluate``: from normal data to a bundle, and from a bundle to figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.measure import Measurement

from service.commands.common import ConfigOption, parse_span, read_settings, run_async
from service.errors import ConfigError
from service.settings import Settings
from service.terminal import bundle_table, console, error_console, progress_bar

if TYPE_CHECKING:
    from service.domain import Dataset


def register(app: typer.Typer) -> None:
    """Add this file's commands to ``app``."""
    app.command(
        "train",
        epilog="Example: tidewatch train normal.parquet --out bundles/hosts, or: tidewatch train --last 6h --out bundles/hosts",
    )(train_command)
    app.command("evaluate", epilog="Example: tidewatch evaluate data/ --jobs 2 --json quality.json --pictures pictures/")(
        evaluate_command
    )


def train_command(
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory to write the bundle to.")],
    data: Annotated[
        Path | None, typer.Argument(help="A file of normal data: npz, csv, parquet or jsonl.", show_default=False)
    ] = None,
    last: Annotated[str | None, typer.Option(help="Instead of a file: this much of the metrics topic, e.g. 90s, 30m, 6h.")] = None,
    name: Annotated[
        str | None, typer.Option(help="The bundle's name, part of every alert id. Default: the directory's name.")
    ] = None,
    detector: Annotated[list[str] | None, typer.Option(help="Train just this detector (may be repeated).")] = None,
    interval: Annotated[float | None, typer.Option(help="Seconds between rows. Default: measured from the data.")] = None,
    config: ConfigOption = None,
) -> None:
    """Learn what normal looks like, and write a model bundle.

    The data is taken to be normal. The newest part of it is held out to calibrate the scores on.
    """
    from service.app import make_detector
    from service.detectors.bundle import save_bundle
    from service.training.train import train

    settings = read_settings(config, quiet=True)
    if (data is None) == (last is None):
        raise ConfigError("Train from what?", hint="Give either a file or --last with a time, e.g. --last 6h.")
    dataset = load(settings, data, last, interval)
    detectors = dict.fromkeys(detector, 1.0) if detector else settings.training.detectors
    console.print(
        f"Training on {dataset.rows:,} rows of {dataset.schema.dims} metrics, "
        f"{len(dataset.series):,} {'entity' if len(dataset.series) == 1 else 'entities'}, "
        f"a row every {dataset.schema.interval_ms / 1000:g} s."
    )
    with progress_bar() as show:
        bundle = train(dataset, settings.training, name=name or out.name, detectors=detectors, factory=make_detector, progress=show)
        save_bundle(bundle, out)
    console.print(bundle_table(bundle, out, settings.alerts.bounds))


def evaluate_command(
    data: Annotated[Path, typer.Argument(help="A labelled .npz (train, test, label), or a folder of SET/SERIES.npz.")],
    bundle: Annotated[Path | None, typer.Option(help="Evaluate this bundle instead of training one a series.")] = None,
    detector: Annotated[str | None, typer.Option(help="Evaluate this detector alone.", show_default=False)] = None,
    stride: Annotated[int, typer.Option(min=1, help="Rows between windows; the score is held in between.")] = 1,
    budget: Annotated[float, typer.Option(min=1e-7, max=0.1, help="Accepted false alarms, as a share of the rows.")] = 0.01,
    jobs: Annotated[int, typer.Option(min=1, help="Series evaluated side by side.")] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every figure to this file.")] = None,
    scores: Annotated[Path | None, typer.Option(help="Write score and anomaly of every test row under this folder.")] = None,
    pictures: Annotated[Path | None, typer.Option(help="Draw every series under this folder.")] = None,
    config: ConfigOption = None,
) -> None:
    """Measure detection quality on labelled series, causally and without point adjustment.

    Each series is learned from its train split; labels are looked at only after its test split was scored.
    """
    from service.app import make_detector
    from service.training.evaluate import evaluate
    from service.training.report import tables

    settings = read_settings(config, quiet=True)
    with progress_bar() as show:
        report = evaluate(
            data,
            settings,
            factory=make_detector,
            bundle=bundle,
            detector=detector,
            stride=stride,
            budget_per_row=budget,
            jobs=jobs,
            scores=scores,
            pictures=pictures,
            progress=show,
        )
    by_series, *summaries = tables(report)
    needs = Measurement.get(console, console.options.update_width(1000), by_series).maximum
    wide = console if console.is_terminal else Console(width=max(console.width, needs))  # a file takes any width
    if wide.width < needs:
        console.print(f"The table by series needs {needs} columns; --json writes it to a file.")
    else:
        wide.print(by_series)
    for table in summaries:
        wide.print(table)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(report)))
        console.print(f"Every figure is in {json_file}.")


def load(settings: Settings, data: Path | None, last: str | None, interval: float | None) -> Dataset:
    """Training data from a file (its train split, if it has one) or from the last part of the metrics topic."""
    from service.sources.files import Split, read_dataset
    from service.sources.topic_dataset import read_topic

    interval_ms = None if interval is None else round(interval * 1000)
    if data is not None:
        split: Split = "train" if data.suffix == ".npz" else "all"
        return read_dataset(data, split=split, interval_ms=interval_ms)
    seconds = parse_span(last or "")
    with error_console.status(f"Reading the last {last} of {settings.kafka.topics.metrics}"):
        return run_async(read_topic(settings, last_seconds=seconds, interval_ms=interval_ms))
