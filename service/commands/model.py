"""``tidewatch train`` and ``tidewatch evaluate``: make a model bundle, and measure how well detection works."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.measure import Measurement

from service.commands.common import ConfigOption, Interval, milliseconds, parse_span, read_settings, run_async
from service.errors import ConfigError
from service.settings import Settings
from service.terminal import bundle_table, console, print_text, progress_bar, working

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
    last: Annotated[
        str | None, typer.Option(help="Instead of a file: the newest part of the metrics topic: 90s, 30m, 6h.", show_default=False)
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The bundle's name, part of every alert id. Default: the directory's.", show_default=False)
    ] = None,
    detector: Annotated[list[str] | None, typer.Option(help="Train only this detector (may be repeated).")] = None,
    interval: Interval = None,
    config: ConfigOption = None,
) -> None:
    """Train the detectors on normal data, and write a model bundle.

    All of the data is taken to be normal. Its newest part is held out to calibrate the scores.
    """
    from service.app import make_detector
    from service.detectors.bundle import save_bundle
    from service.training.train import train

    settings = read_settings(config, quiet=True)
    if (data is None) == (last is None):
        problem = "No data to train on was given" if data is None else "A file and --last were given, but training reads only one"
        raise ConfigError(f"{problem}.", hint="Give either a file, or --last with a length of time: --last 6h.")
    dataset = load(settings, data, last, milliseconds(interval))
    detectors = dict.fromkeys(detector, 1.0) if detector else settings.training.detectors
    print_text(
        f"Training on {dataset.rows:,} rows of {dataset.schema.dims} metrics, "
        f"{len(dataset.series):,} {'entity' if len(dataset.series) == 1 else 'entities'}, "
        f"a row every {dataset.schema.interval_ms / 1000:g} s."
    )
    with progress_bar() as show:
        bundle = train(dataset, settings.training, name=name or out.name, detectors=detectors, factory=make_detector, progress=show)
        save_bundle(bundle, out)
    console.print(bundle_table(bundle, out))


def evaluate_command(
    data: Annotated[Path, typer.Argument(help="A labelled .npz (train, test, label), or a folder of SET/SERIES.npz.")],
    bundle: Annotated[Path | None, typer.Option(help="Evaluate this bundle instead of training one for each series.")] = None,
    detector: Annotated[str | None, typer.Option(help="Evaluate only this detector.", show_default=False)] = None,
    stride: Annotated[
        int, typer.Option(min=1, help="Rows from window to window; rows in between have the score of the last one.")
    ] = 1,
    budget: Annotated[float, typer.Option(min=1e-7, max=0.1, help="Accepted false alarms, as a share of the rows.")] = 0.01,
    jobs: Annotated[int, typer.Option(min=1, help="Series evaluated at the same time.")] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every figure to this file.")] = None,
    scores: Annotated[Path | None, typer.Option(help="Write the score and the decision of every test row to this folder.")] = None,
    pictures: Annotated[Path | None, typer.Option(help="Draw every series into this folder.")] = None,
    config: ConfigOption = None,
) -> None:
    """Measure detection quality on labelled series, without point adjustment.

    Detectors learn from a series' train split. Each test row is scored from the rows up to it; labels are read afterwards.
    """
    from service.app import make_detector
    from service.training.evaluate import evaluate
    from service.training.report import tables

    settings = read_settings(config, quiet=True)
    with progress_bar() as show:
        show("evaluate")
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
        print_text(f"The table of all series needs a terminal {needs} columns wide; --json FILE writes every figure to a file.")
    else:
        wide.print(by_series)
    for table in summaries:
        wide.print(table)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(report)))
        print_text(f"Every figure is in {json_file}.")


def load(settings: Settings, data: Path | None, last: str | None, interval_ms: int | None) -> Dataset:
    """Training data: from a file (the train split of an npz archive), or the newest part of the metrics topic."""
    from service.sources.files import Split, read_dataset
    from service.sources.topic_dataset import read_topic

    if data is not None:
        split: Split = "train" if data.suffix == ".npz" else "all"
        with working(f"Reading {data.name}"):
            return read_dataset(data, split=split, interval_ms=interval_ms)
    seconds = parse_span(last or "")
    with progress_bar() as show:
        return run_async(read_topic(settings, last_seconds=seconds, interval_ms=interval_ms, progress=show))
