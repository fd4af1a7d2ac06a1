"""What every command shares: the console, the settings option, progress bars, and a loop that ends well."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from service.observability.logging import configure_logging
from service.settings import Settings, load_settings

T = TypeVar("T")

# Results go to standard output; progress, logs and errors to standard error, so that output can be piped.
console = Console()
error_console = Console(stderr=True)

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", envvar="TIDEWATCH_CONFIG", help="Settings file (YAML or TOML).", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def read_settings(config: Path | None, **overrides: Any) -> Settings:
    """The settings, with logging configured from them."""
    settings = load_settings(config, overrides)
    configure_logging(settings.log.level, settings.log.format)
    return settings


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` on uvloop, whose Kafka round trips cost about half of those on asyncio's own loop."""
    return uvloop.run(work)


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int, str], None]]:
    """A live bar for each stage: call the yielded function with (stage, done, total, detail); total 0 means unknown."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[detail]}"),
    )
    with Progress(*columns, console=error_console) as bars:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int, detail: str = "") -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total or None, detail=detail)
            bars.update(tasks[stage], completed=done, total=total or None, detail=detail)

        yield show
