"""The ``tidewatch`` command: puts the commands together and turns every error into one clear sentence."""

from __future__ import annotations

import os
import sys

import typer
from rich.markup import escape

from service.commands import admin, alerts, data, dead_letter, model, people, serve
from service.errors import Reject, Retry, Stop, TidewatchError
from service.local.commands import local_app
from service.terminal import error_console

app = typer.Typer(
    name="tidewatch",
    help="Streaming anomaly detection for multivariate metrics: from Kafka to the person woken up.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for group in (serve, admin, model, data, alerts, people, dead_letter):
    group.register(app)
app.add_typer(local_app, name="local")


def main() -> None:
    """Run the command line; exit 0 on success, 1 when something outside failed, 2 when the caller must change something."""
    try:
        app()  # exits by itself, with 2 and its own words where the command line is wrong, and with 130 on Ctrl-C
    except TidewatchError as error:
        _say(str(error), error.hint if isinstance(error, Stop) else _hint(error))
        sys.exit(2 if isinstance(error, Stop) else 1)
    except Exception as error:  # the last line of defence: people get a sentence, never a traceback
        if os.environ.get("TIDEWATCH_DEBUG"):
            raise
        _say(f"Something unexpected went wrong: {type(error).__name__}: {error}", "TIDEWATCH_DEBUG=1 shows where; report it.")
        sys.exit(1)


def _say(message: str, hint: str) -> None:
    error_console.print(f"[bold red]Error:[/] {escape(message)}", highlight=False, soft_wrap=True)
    if hint:
        error_console.print(f"[dim]{escape(hint)}[/]", highlight=False, soft_wrap=True)


def _hint(error: TidewatchError) -> str:
    if isinstance(error, Retry):
        return "`tidewatch check` shows which servers can be reached."
    return "" if isinstance(error, Reject) else "See the log above."
