"""``tidewatch run`` and ``tidewatch api``: the service itself, and the REST API beside it."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Annotated

import typer

from service.commands.common import ConfigOption, read_settings, run_async
from service.runtime import run_parts, settle_interpreter, stop_on_signals
from service.settings import Settings
from service.supervisor import supervise, worker_command, worker_environments


class Only(StrEnum):
    """The parts that can run by themselves."""

    SCORING = "scoring"
    STORE = "store"
    NOTIFY = "notify"


def register(app: typer.Typer) -> None:
    """Add this file's commands to ``app``."""
    app.command("run")(run)
    app.command("api", epilog="Example: TIDEWATCH_API__TOKEN_FILE=/run/secrets/api_token tidewatch api")(api)


def run(
    config: ConfigOption = None,
    only: Annotated[list[Only] | None, typer.Option("--only", help="Run just this part (may be given more than once).")] = None,
    workers: Annotated[
        int, typer.Option(min=1, max=256, help="Processes that share the partitions; one that dies is started again.")
    ] = 1,
) -> None:
    """Watch the metrics topic, keep the history and send the notifications, until SIGTERM or Ctrl-C.

    Example: [bold]tidewatch run --config tidewatch.yaml[/], or one part a process:
    [bold]tidewatch run --only scoring --workers 4[/]. Worker k serves its health on http.port + k.
    """
    settings = read_settings(config)
    parts = tuple(part.value for part in only or list(Only))
    if workers > 1:
        raise typer.Exit(run_async(_supervise(settings, parts, workers)))
    run_async(_run(settings, parts))


def api(config: ConfigOption = None) -> None:
    """Serve the REST API: alerts, events, silences and feedback, until SIGTERM or Ctrl-C.

    Its description is at /api/v1/openapi.json. Writing needs api.token (or api.token_file) in the settings.
    """
    run_async(_api(read_settings(config)))


async def _api(settings: Settings) -> None:
    from service.api.part import ApiPart

    stop = asyncio.Event()
    with stop_on_signals(stop):
        await run_parts([ApiPart(settings)], stop)


async def _run(settings: Settings, parts: tuple[str, ...]) -> None:
    from service.app import build_service

    stop = asyncio.Event()
    with stop_on_signals(stop):
        built = build_service(settings, parts)
        settle_interpreter()
        await run_parts(built, stop)


async def _supervise(settings: Settings, parts: tuple[str, ...], workers: int) -> int:
    stop = asyncio.Event()
    with stop_on_signals(stop):
        return await supervise([worker_command(parts)] * workers, worker_environments(settings.http.port, workers), stop)
