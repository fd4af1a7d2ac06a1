"""``tidewatch demo``: shows the service at work on this machine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import stamina
import typer

from service.commands.common import run_async
from service.errors import LocalStackError
from service.observability.logging import configure_logging
from service.terminal import console


def register(app: typer.Typer) -> None:
    """Add this file's commands to ``app``."""
    app.command("demo", epilog="Example: tidewatch demo, or: tidewatch demo --data metrics.parquet --speed 200")(demo)


def demo(
    data: Annotated[
        Path | None, typer.Option(help="Replay this data set (npz, csv, parquet, jsonl) instead of watching this machine.")
    ] = None,
    speed: Annotated[float | None, typer.Option(min=0.001, help="Rows a second of the replay.", show_default=False)] = None,
) -> None:
    """Show the service at work on this machine: real servers, real metrics, a real fault, and the alert about it.

    Takes about three minutes. Ctrl-C ends it; nothing is left behind.
    """
    try:
        from service.demo.demo import play
    except ModuleNotFoundError as error:
        raise LocalStackError(
            f"The demo needs the package {error.name}, which is not installed.", hint="Run: pip install 'tidewatch[local]'"
        ) from error
    configure_logging("critical", "auto")
    stamina.instrumentation.set_on_retry_hooks([])
    try:
        run_async(play(console, data=data, speed=speed))
    except asyncio.CancelledError:
        raise typer.Exit(143) from None
