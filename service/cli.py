"""The ``tidewatch`` command: assembles the commands, and prints every error as one sentence and what to do next."""

from __future__ import annotations

import os
import sys

import typer
from rich.text import Text

from service.commands import alerts, check, data, dead_letter, demo, local, model, notify, operators, serve, setup
from service.errors import Retry, Stop, TidewatchError
from service.terminal import error_console, plain, print_text

app = typer.Typer(
    name="tidewatch",
    help="Finds anomalies in metrics on a Kafka topic, and sends alerts by Slack, e-mail or webhook.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for group in (setup, check, model, serve, data, alerts, operators, notify, dead_letter, local, demo):
    group.register(app)


def main() -> None:
    """Run the command line. Exit status: 0 on success, 1 when something outside failed, 2 when the input must change."""
    try:
        app()  # exits by itself: with 2 and its own message where the command line is wrong, with 130 on Ctrl-C
    except TidewatchError as error:
        _report(str(error), _hint(error))
        sys.exit(2 if isinstance(error, Stop) else 1)
    except Exception as error:  # the last resort: a sentence, not a traceback
        if os.environ.get("TIDEWATCH_DEBUG"):
            raise
        problem = f"Something unexpected went wrong: {type(error).__name__}: {error}"
        _report(problem, "Run it again with TIDEWATCH_DEBUG=1 to see where, and report it.")
        sys.exit(1)


def _report(message: str, hint: str) -> None:
    """Print an error and what to do next, line by line."""
    first, *more = message.split("\n")
    print_text(Text("Error: ", "bold red") + plain(first), on=error_console)
    for line in more:
        print_text(line, on=error_console)
    for line in hint.split("\n") if hint else ():
        print_text(plain(line, style="dim"), on=error_console)


def _hint(error: TidewatchError) -> str:
    if isinstance(error, Stop):
        return error.hint
    return "`tidewatch check` shows which servers can be reached." if isinstance(error, Retry) else "See the log above."
