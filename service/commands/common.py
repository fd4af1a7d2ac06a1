"""What every command shares: the console, the settings option, progress bars, and a loop that ends well."""

from __future__ import annotations

import re
import warnings
from collections.abc import Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import stamina
import typer
import uvloop
from rich.markup import escape

from service.errors import ConfigError
from service.observability.logging import configure_logging, get_logger
from service.settings import RenamedSettingWarning, Settings, load_settings
from service.terminal import error_console

log = get_logger("settings")

T = TypeVar("T")
# Results go to standard output; progress, logs and errors to standard error, so that output can be piped.
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", envvar="TIDEWATCH_CONFIG", help="Settings file (YAML or TOML).", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def read_settings(config: Path | None, *, quiet: bool = False) -> Settings:
    """The settings, with logging configured from them.

    ``quiet`` is for commands that answer a person: what goes wrong is said once by the command, not by every library.
    """
    with warnings.catch_warnings(record=True) as caught:  # kept until logging is configured
        warnings.simplefilter("always", RenamedSettingWarning)
        settings = load_settings(config)
    configure_logging("critical" if quiet else settings.log.level, settings.log.format)
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        if quiet:
            error_console.print(f"[yellow]Warning:[/] {escape(message)}", highlight=False, soft_wrap=True)
        else:
            log.warning(message)
    if quiet:
        stamina.instrumentation.set_on_retry_hooks([])
    return settings


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` on uvloop, whose Kafka round trips cost about half of those on asyncio's own loop."""
    return uvloop.run(work)


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_SPAN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)\s*")


def parse_span(text: str) -> float:
    """Seconds in ``90s``, ``30m``, ``6h``, ``7d``. Raises ``ConfigError`` for anything else."""
    found = _SPAN.fullmatch(text)
    if found is None:
        raise ConfigError(f"{text!r} is no length of time.", hint="Write a number and a unit: 90s, 30m, 6h, 7d.")
    return float(found[1]) * _UNITS[found[2]]


def parse_moment(text: str | None, now_ms: int) -> int | None:
    """Milliseconds since the epoch of ``6h`` (ago), ``2026-11-22T09:30:00Z`` or ``2026-11-22`` (UTC where no zone is named).

    Raises ``ConfigError`` for anything else.
    """
    if text is None:
        return None
    if _SPAN.fullmatch(text):
        return now_ms - round(parse_span(text) * 1000)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{text!r} is no time.", hint="Write 6h (ago), or an ISO time such as 2026-11-22T09:30:00Z.") from None
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
