"""What the commands share: options, the settings, reading times, and running asynchronous work."""

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

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", envvar="TIDEWATCH_CONFIG", help="Settings file (YAML or TOML).", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Since = Annotated[
    str | None, typer.Option(help="Only what is newer than this: 30m, 6h, 7d (ago), or an ISO time.", show_default=False)
]
AlertId = Annotated[str, typer.Argument(help="The alert's id, or its first characters, as long as only one alert has them.")]
Interval = Annotated[float | None, typer.Option(help="Seconds between rows. Default: measured; 60 for npz.", show_default=False)]

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_SPAN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)\s*")


def read_settings(config: Path | None, *, quiet: bool = False) -> Settings:
    """The settings, with logging configured from them.

    ``quiet`` is for commands that answer and end: the command reports an error once, so the libraries' log lines are left out.
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
    """Run ``work`` on uvloop, where a Kafka round trip costs about half of what it does on asyncio's own loop."""
    return uvloop.run(work)


def milliseconds(seconds: float | None) -> int | None:
    """``--interval`` in the unit of data sets."""
    return None if seconds is None else round(seconds * 1000)


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


def utc(moment_ms: int) -> str:
    """Milliseconds since the epoch as ``2026-11-22 09:30:00 UTC``."""
    return datetime.fromtimestamp(moment_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
