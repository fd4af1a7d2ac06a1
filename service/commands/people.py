"""What people say from the command line: acknowledge and judge alerts, and silence what matches. Only commands are written."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.text import Text

from service.clock import SystemClock
from service.commands.alerts import alerts_app
from service.commands.common import ConfigOption, JsonOption, parse_moment, parse_span, read_settings, run_async
from service.errors import ConfigError
from service.settings import Settings
from service.terminal import console, history_table, listing

if TYPE_CHECKING:
    from service.alerts.control.mutes import Silence
    from service.alerts.control.operators import Operators, Preview

Author = Annotated[str, typer.Option(envvar="TIDEWATCH_AUTHOR", help="Your name, for whoever reads this later.")]
Note = Annotated[str, typer.Option(help="Why, for whoever reads this later.")]
AlertId = Annotated[str, typer.Argument(help="The alert's id, or an unambiguous beginning of it.")]


class MarkChoice(StrEnum):
    """What an alert can be marked."""

    FALSE = "false"
    TRUE = "true"
    NONE = "none"


silence_app = typer.Typer(help="Times when nobody is told of what matches.", no_args_is_help=True, rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    """Add this file's commands to ``app``."""
    app.add_typer(silence_app, name="silence")


@silence_app.command(
    "add", epilog="Example: tidewatch silence add 'entity=db-*' rack=7 --for 2h --author ada --comment 'new disks'"
)
def add_silence(
    matchers: Annotated[list[str], typer.Argument(help="NAME=GLOB: entity, severity, model, alert or a label; =!GLOB is not.")],
    author: Author,
    length: Annotated[str, typer.Option("--for", help="How long: 30m, 2h, 7d.")],
    starts: Annotated[str | None, typer.Option(help="When, as an ISO time. Default: now.", show_default=False)] = None,
    comment: Note = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Tell nobody of alerts that match all of these. They are still stored, and marked as silenced."""
    settings = read_settings(config, quiet=True)
    match, seconds, begin = read_matchers(matchers), parse_span(length), parse_moment(starts, SystemClock().now_ms())

    async def said() -> Silence:
        async with _people(settings) as people:
            return await people.silence(match, seconds=seconds, author=author, comment=comment, starts_at=begin)

    silence = run_async(said())
    if as_json:
        console.print_json(msgspec.json.encode(silence).decode())
    else:
        console.print(f"Silence {silence.id} holds until {_moment(silence.ends_at)}.", highlight=False)


@silence_app.command("list", epilog="Example: tidewatch silence list --all")
def list_silences(
    over: Annotated[bool, typer.Option("--all", help="Also those that are over.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List the silences in force and to come, those of the settings file too."""
    settings = read_settings(config, quiet=True)

    async def asked() -> list[Silence]:
        async with _people(settings, listening=True) as people:
            return people.silences(over=over)

    found = run_async(asked())
    if as_json:
        console.print_json(msgspec.json.encode(found).decode())
        return
    if not found:
        console.print("No silence holds.")
        return
    table = listing("id", "matches", "from", "until", "author", "comment", "stands in", whole={"id"})
    for silence in found:
        match = " ".join(f"{name}={glob}" for name, glob in silence.match.items())
        where = "settings" if silence.fixed else "control topic"
        times = _moment(silence.starts_at), _moment(silence.ends_at)
        table.add_row(*map(Text, (silence.id, match, *times, silence.author, silence.comment, where)))
    console.print(table)


@silence_app.command("expire", epilog="Example: tidewatch silence expire 3f9c1a --author ada")
def expire_silence(
    silence_id: Annotated[str, typer.Argument(help="The silence's id, or an unambiguous beginning of it.")],
    author: Author,
    config: ConfigOption = None,
) -> None:
    """End a silence now; what still fires is told again."""
    settings = read_settings(config, quiet=True)

    async def said() -> Silence:
        async with _people(settings, listening=True) as people:
            return await people.expire(silence_id, author=author)

    silence = run_async(said())
    console.print(f"Silence {silence.id} ended at {_moment(silence.ends_at)}.", highlight=False)


@alerts_app.command("ack", epilog="Example: tidewatch alerts ack 3f9c1a --author ada --note 'looking at it'")
def acknowledge_alert(alert_id: AlertId, author: Author, note: Note = "", config: ConfigOption = None) -> None:
    """Say that you have taken an alert: its receivers are no longer reminded of it."""
    settings = read_settings(config, quiet=True)

    async def said() -> str:
        async with _people(settings) as people:
            return (await people.acknowledge(alert_id, author=author, note=note)).alert_id

    console.print(f"Alert {run_async(said())} is taken by {author}, if it is still open.", highlight=False, markup=False)


@alerts_app.command("mark", epilog="Example: tidewatch alerts mark 3f9c1a false --author ada --note 'nightly backup' --suppress")
def mark_alert(
    alert_id: AlertId,
    verdict: Annotated[MarkChoice, typer.Argument(help="false: nothing was wrong; true: well found; none: take it back.")],
    author: Author,
    note: Note = "",
    suppress: Annotated[bool, typer.Option("--suppress", help="Of a false one: tell nobody of its like any more.")] = False,
    entity: Annotated[str | None, typer.Option(help="Suppress on this entity (* and ? allowed).", show_default=False)] = None,
    preview: Annotated[bool, typer.Option("--preview", help="Only show what suppressing would have kept quiet.")] = False,
    since: Annotated[str, typer.Option(help="How far the preview looks back: 30d, or an ISO time.")] = "30d",
    config: ConfigOption = None,
) -> None:
    """Judge an alert, shown with the past alerts that suppressing its like would have kept quiet.

    "none" takes back every judgement of the alert, and what it suppressed.
    """
    settings = read_settings(config, quiet=True)
    if (preview or suppress or entity) and verdict is not MarkChoice.FALSE:
        raise ConfigError("Only an alert marked false can suppress its like.", hint=f"tidewatch alerts mark {alert_id} false …")
    begin = parse_moment(since, SystemClock().now_ms())

    async def looked() -> Preview:
        async with _people(settings) as people:
            return await people.preview(alert_id, since=begin, entity=entity)

    async def said() -> str:
        async with _people(settings) as people:
            mark = await people.mark(alert_id, verdict.value, author=author, note=note, suppress=suppress, entity=entity)
            return mark.alert_id

    if preview or suppress:
        _show_preview(run_async(looked()))
    if preview:
        return
    whole = run_async(said())
    done = "its judgements are taken back" if verdict is MarkChoice.NONE else f"is marked {verdict}"
    console.print(f"Alert {whole}: {done}.", highlight=False)


def read_matchers(texts: list[str]) -> dict[str, str]:
    """``["entity=db-*", "rack=!7"]`` as a mapping. Raises ``ConfigError`` for anything that is no NAME=GLOB."""
    match: dict[str, str] = {}
    for text in texts:
        name, equals, glob = text.partition("=")
        if not equals or not name or not glob or name in match:
            raise ConfigError(f"{text!r} is no matcher.", hint="Write NAME=GLOB once for each name, for instance 'entity=db-*'.")
        match[name] = glob
    return match


def _show_preview(found: Preview) -> None:
    metrics = ", ".join(found.metrics)
    told = f"{len(found.alerts)} of {found.looked_at} alerts told since then would have been kept quiet"
    console.print(f"{told}: those of {found.entity} that rest on {metrics}.", highlight=False, markup=False)
    if found.alerts:
        console.print(history_table(found.alerts[:20]))


def _moment(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


@asynccontextmanager
async def _people(settings: Settings, *, listening: bool = False) -> AsyncIterator[Operators]:
    from service.app import build_history, build_people

    history = build_history(settings)
    people = build_people(settings, history)
    try:
        if listening:
            await people.start()
        yield people
    finally:
        await people.close()
        await history.close()
