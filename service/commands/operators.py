"""What operators do from the command line: silence, acknowledge, mark. Each writes a command to the control topic."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from service.clock import SystemClock
from service.commands.alerts import alerts_app
from service.commands.common import AlertId, ConfigOption, JsonOption, parse_moment, parse_span, read_settings, run_async, utc
from service.errors import ConfigError
from service.settings import Settings
from service.terminal import console, history_table, listing, print_json, print_text

if TYPE_CHECKING:
    from service.alerts.control.mutes import Silence
    from service.alerts.control.operators import Operators, Preview

T = TypeVar("T")

Author = Annotated[str, typer.Option(envvar="TIDEWATCH_AUTHOR", help="Your name, kept with the command.")]
Note = Annotated[str, typer.Option(help="The reason, kept with the command.")]


class MarkChoice(StrEnum):
    """How an alert can be judged."""

    FALSE = "false"
    TRUE = "true"
    NONE = "none"


silence_app = typer.Typer(help="Mute alerts that match, for some time.", no_args_is_help=True, rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    """Add this file's commands to ``app``."""
    app.add_typer(silence_app, name="silence")


@silence_app.command(
    "add", epilog="Example: tidewatch silence add 'entity=db-*' rack=7 --for 2h --author ada --comment 'new disks'"
)
def add_silence(
    matchers: Annotated[
        list[str],
        typer.Argument(
            help="NAME=GLOB, where NAME is entity, severity, model, alert or a label, and * and ? are wildcards. "
            "NAME=!GLOB: everything else. An alert must match all of them."
        ),
    ],
    author: Author,
    length: Annotated[str, typer.Option("--for", help="How long: 30m, 2h, 7d.")],
    starts: Annotated[str | None, typer.Option(help="When it begins, as an ISO time. Default: now.", show_default=False)] = None,
    comment: Note = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Send nothing about alerts that match. They are still stored, and marked as silenced."""
    settings = read_settings(config, quiet=True)
    match, seconds, begin = read_matchers(matchers), parse_span(length), parse_moment(starts, SystemClock().now_ms())
    silence = _with_operators(
        settings,
        lambda operators: operators.silence(match, seconds=seconds, author=author, comment=comment, starts_at=begin),
    )
    if as_json:
        print_json(silence)
    else:
        print_text(f"Silence {silence.id} is in force until {utc(silence.ends_at)}.")


@silence_app.command("list", epilog="Example: tidewatch silence list --all")
def list_silences(
    over: Annotated[bool, typer.Option("--all", help="Also those that have ended.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List the silences that are in force or still to begin, including those of the settings file."""
    settings = read_settings(config, quiet=True)

    async def current(operators: Operators) -> list[Silence]:
        return operators.silences(over=over)

    found = _with_operators(settings, current, following=True)
    if as_json:
        print_json(found)
        return
    if not found:
        print_text("No silence is in force.")
        return
    table = listing("id", "matches", "from", "until", "author", "comment", "set in", whole={"id"})
    for silence in found:
        match = " ".join(f"{name}={glob}" for name, glob in silence.match.items())
        where = "settings" if silence.fixed else "control topic"
        table.add_row(silence.id, match, utc(silence.starts_at), utc(silence.ends_at), silence.author, silence.comment, where)
    console.print(table)


@silence_app.command("expire", epilog="Example: tidewatch silence expire 3f9c1a --author ada")
def expire_silence(
    silence_id: Annotated[
        str, typer.Argument(help="The silence's id, or its first characters, as long as only one silence has them.")
    ],
    author: Author,
    config: ConfigOption = None,
) -> None:
    """End a silence now. Alerts that still fire are notified again."""
    settings = read_settings(config, quiet=True)
    silence = _with_operators(settings, lambda operators: operators.expire(silence_id, author=author), following=True)
    print_text(f"Silence {silence.id} ended at {utc(silence.ends_at)}.")


@alerts_app.command("ack", epilog="Example: tidewatch alerts ack 3f9c1a --author ada --note 'looking at it'")
def acknowledge_alert(alert_id: AlertId, author: Author, note: Note = "", config: ConfigOption = None) -> None:
    """Acknowledge an alert: its receivers get no more reminders of it."""
    settings = read_settings(config, quiet=True)
    command = _with_operators(settings, lambda operators: operators.acknowledge(alert_id, author=author, note=note))
    print_text(f"Alert {command.alert_id}: acknowledged by {author}, if it is still open.")


@alerts_app.command("mark", epilog="Example: tidewatch alerts mark 3f9c1a false --author ada --note 'nightly backup' --suppress")
def mark_alert(
    alert_id: AlertId,
    verdict: Annotated[
        MarkChoice, typer.Argument(help="false: a false alarm; true: a real problem; none: take every earlier mark back.")
    ],
    author: Author,
    note: Note = "",
    suppress: Annotated[
        bool, typer.Option("--suppress", help="With false: send nothing about alerts of the same entity and metrics any more.")
    ] = False,
    entity: Annotated[
        str | None, typer.Option(help="Suppress on this entity instead; * and ? are wildcards.", show_default=False)
    ] = None,
    preview: Annotated[bool, typer.Option("--preview", help="Only show which past alerts would have been suppressed.")] = False,
    since: Annotated[str, typer.Option(help="How far back the preview looks: 30d, or an ISO time.")] = "30d",
    config: ConfigOption = None,
) -> None:
    """Mark an alert as false or true. With --suppress, first shows which past alerts would have been suppressed.

    "none" takes back every mark of the alert, and what it suppressed.
    """
    settings = read_settings(config, quiet=True)
    if (preview or suppress or entity) and verdict is not MarkChoice.FALSE:
        raise ConfigError(
            "Only an alert marked false can suppress others.", hint=f"Write: tidewatch alerts mark {alert_id} false …"
        )
    begin = parse_moment(since, SystemClock().now_ms())
    if preview or suppress:
        _show_preview(_with_operators(settings, lambda operators: operators.preview(alert_id, since=begin, entity=entity)))
    if preview:
        return
    mark = _with_operators(
        settings,
        lambda operators: operators.mark(alert_id, verdict.value, author=author, note=note, suppress=suppress, entity=entity),
    )
    print_text(f"Alert {mark.alert_id}: " + ("its marks are taken back." if verdict is MarkChoice.NONE else f"marked {verdict}."))


def read_matchers(texts: list[str]) -> dict[str, str]:
    """``["entity=db-*", "rack=!7"]`` as a mapping. Raises ``ConfigError`` for anything that is not NAME=GLOB."""
    match: dict[str, str] = {}
    for text in texts:
        name, equals, glob = text.partition("=")
        if not equals or not name or not glob or name in match:
            raise ConfigError(f"{text!r} is no matcher.", hint="Write NAME=GLOB once for each name, for instance 'entity=db-*'.")
        match[name] = glob
    return match


def _show_preview(found: Preview) -> None:
    counts = f"{len(found.alerts)} of the {found.looked_at} alerts that fired since then would have been suppressed"
    print_text(f"{counts}: those of {found.entity} that rest on {', '.join(found.metrics)}.")
    if found.alerts:
        console.print(history_table(found.alerts[:20]))


def _with_operators(settings: Settings, act: Callable[[Operators], Awaitable[T]], *, following: bool = False) -> T:
    """What ``act`` returns. ``following``: it needs to know the commands written so far, so those are read first."""

    async def connected() -> T:
        from service.app import build_history, build_operators

        history = build_history(settings)
        operators = build_operators(settings, history)
        try:
            if following:
                await operators.start()
            return await act(operators)
        finally:
            await operators.close()
            await history.close()

    return run_async(connected())
