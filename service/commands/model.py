"""``tidewatch train`` and ``tidewatch evaluate``: from normal data to a bundle, and from a bundle to figures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from service.commands.common import ConfigOption, console, error_console, parse_span, progress_bar, read_settings, run_async
from service.errors import ConfigError
from service.settings import Settings

if TYPE_CHECKING:
    from service.detectors.bundle import Bundle
    from service.detectors.calibration import Calibration
    from service.domain import Dataset, SeverityBounds


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
    from service.sources.messages import read_topic

    interval_ms = None if interval is None else round(interval * 1000)
    if data is not None:
        split: Split = "train" if data.suffix == ".npz" else "all"
        return read_dataset(data, split=split, interval_ms=interval_ms)
    seconds = parse_span(last or "")
    with error_console.status(f"Reading the last {last} of {settings.kafka.topics.metrics}"):
        return run_async(read_topic(settings, last_seconds=seconds, interval_ms=interval_ms))


def bundle_table(bundle: Bundle, path: Path, bounds: SeverityBounds) -> Table:
    """What a bundle holds and what it can support, for people."""
    tail = bundle.calibration()
    table = Table(title=f"Bundle {bundle.name}", title_justify="left", show_header=False)
    table.add_row("where", str(path))
    table.add_row("version", bundle.version[:12])
    table.add_row("metrics", f"{bundle.schema.dims}: {shortened(bundle.schema.metrics)}")
    if bundle.scaler.left_out:
        table.add_row("left out", left_out_words(bundle))
    early = " and where the metrics jump" if bundle.early is not None else ""
    table.add_row("window", f"{bundle.window} rows of {bundle.schema.interval_ms / 1000:g} s, scored every {bundle.stride}{early}")
    table.add_row("detectors", ", ".join(member.name for member in bundle.members))
    table.add_row("calibrated on", f"{tail.n_eff:,.0f} independent windows")
    rarest = f"nothing rarer than one in {1 / tail.floor:,.0f} can be told"
    table.add_row("can support", f"{reach_words(tail, bounds)}: {rarest}")
    return table


def reach_words(tail: Calibration, bounds: SeverityBounds) -> str:
    """How high the scores of a calibration go, and how severe that is."""
    return f"scores up to {ceiling_words(tail)} ({bounds.of(tail.ceiling)})"


def ceiling_words(tail: Calibration) -> str:
    """The highest score a calibration can tell, rounded down: a bound there is within reach."""
    return f"{math.floor(tail.ceiling * 100) / 100:.2f}"


def left_out_words(bundle: Bundle) -> str:
    """Which metrics no score hears of, and why."""
    names = [bundle.schema.metrics[at] for at in bundle.scaler.left_out]
    return f"{len(names)} metrics that took two values at most in training and would outvote the others: {shortened(tuple(names))}"


def shortened(names: tuple[str, ...], most: int = 6) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
