"""What a person sees in a terminal: tables, progress bars, colours. The commands and the demo both use it."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from service.progress import Progress

if TYPE_CHECKING:
    from service.detectors.bundle import Bundle
    from service.detectors.decision.calibration import Calibration
    from service.domain import SeverityBounds

COLOURS = {"critical": "bold red", "warning": "yellow", "info": "cyan"}

# Results go to standard output; progress, logs and errors to standard error, so that output can be piped.
console = Console()
error_console = Console(stderr=True)


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A live bar for each stage: call the yielded function with (stage, done, total, detail); total 0 means unknown."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[detail]}"),
    )
    with Bars(*columns, console=error_console) as bars:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int, detail: str = "") -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total or None, detail=detail)
            bars.update(tasks[stage], completed=done, total=total or None, detail=detail)

        yield show


def listing(*names: str, whole: Container[str] = (), **options: Any) -> Table:
    """A table for people with these columns. Those named ``whole`` keep what they show in one piece; in a narrow terminal the
    others go on in the next line, and nothing is cut off. ``options``: rich's."""
    table = Table(title_justify="left", **options)
    for name in names:
        table.add_column(name, no_wrap=name in whole, overflow="fold")
    return table


def to_the_second(timestamp: str) -> str:
    """An ISO time of a document, for a table: ``2026-11-22 09:30:00``."""
    return timestamp[:19].replace("T", " ")


def history_table(found: list[dict[str, Any]]) -> Table:
    """Alert documents as a table for people."""
    table = listing("id", "started (UTC)", "entity", "severity", "status", "what", whole={"id", "started (UTC)"})
    for alert in found:
        ours = alert["tidewatch"]
        severity = Text(ours["peak_severity"], style=COLOURS[ours["peak_severity"]])
        started = to_the_second(alert["event"]["start"])
        table.add_row(ours["alert_id"][:8], started, ours["entity"], severity, ours["status"], alert["message"])
    return table


def bundle_table(bundle: Bundle, path: Path, bounds: SeverityBounds) -> Table:
    """What a bundle holds and what it can support, for people."""
    tail = bundle.calibration()
    table = Table(title=f"Bundle {bundle.name}", title_justify="left", show_header=False)
    table.add_row("where", str(path))
    table.add_row("version", bundle.version[:12])
    table.add_row("metrics", f"{bundle.schema.dims}: {shortened(bundle.schema.metrics)}")
    if bundle.scaler.left_out:
        table.add_row("left out", left_out_words(bundle))
    early = " and where the metrics jump" if bundle.early_change is not None else ""
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
