"""Commands about alerts: the history, and a test message."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

import msgspec
import typer
from rich.table import Table
from rich.text import Text

from service.clock import SystemClock
from service.commands.common import ConfigOption, JsonOption, parse_moment, read_settings, run_async
from service.domain import Severity, Status
from service.errors import ConfigError, DeliveryFailed, DeliveryRefused
from service.settings import Settings
from service.terminal import COLOURS, console, history_table, listing, to_the_second

DELIVERY_COLOURS = {"sent": "green", "owed": "yellow", "refused": "bold red", "gave_up": "bold red"}
COLUMNS = ("alert_id", "entity", "status", "severity", "peak_severity", "start", "end", "peak_score", "top_metric", "message")

Since = Annotated[str | None, typer.Option(help="Started after this: 30m, 6h, 7d ago, or an ISO time.", show_default=False)]
Until = Annotated[str | None, typer.Option(help="Started before this, written as --since.", show_default=False)]
Entity = Annotated[str | None, typer.Option(help="This entity; * and ? stand for anything.", show_default=False)]
AtLeast = Annotated[Severity | None, typer.Option("--severity", help="Peak severity at least this.", show_default=False)]
InStatus = Annotated[Status | None, typer.Option("--status", help="Only alerts that are now so.", show_default=False)]
Pending = Annotated[bool, typer.Option("--all", help="Also alerts that never fired, which nobody was told about.")]


class Format(StrEnum):
    """Ways to export."""

    JSONL = "jsonl"
    CSV = "csv"


alerts_app = typer.Typer(help="The alert history, as Elasticsearch has it.", no_args_is_help=True, rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    """Add this file's commands to ``app``."""
    app.command("test-notify", epilog="Example: tidewatch test-notify --receiver oncall-slack")(notify_sample)
    app.add_typer(alerts_app, name="alerts")


@alerts_app.command("list", epilog="Example: tidewatch alerts list --since 24h --severity warning --entity 'db-*'")
def list_alerts(
    since: Since = None,
    until: Until = None,
    entity: Entity = None,
    severity: AtLeast = None,
    status: InStatus = None,
    everything: Pending = False,
    limit: Annotated[int, typer.Option(min=1, help="At most this many, newest first.")] = 50,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List alerts, newest first."""
    settings = read_settings(config, quiet=True)
    filters = _filters(since, until, entity, severity, status, everything)
    found = run_async(_list(settings, filters, limit))
    if as_json:
        console.print_json(msgspec.json.encode(found).decode())
    elif not found:
        console.print("No alert matches.")
    else:
        console.print(history_table(found))


@alerts_app.command("show", epilog="Example: tidewatch alerts show 3f9c1a")
def show_alert(
    alert_id: Annotated[str, typer.Argument(help="The alert's id, or an unambiguous beginning of it.")],
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show one alert: what it says, why, every transition it went through, and who was told."""
    settings = read_settings(config, quiet=True)
    found = run_async(_show(settings, alert_id))
    if found is None:
        raise ConfigError(
            f"There is no alert whose id begins with {alert_id!r}, or there are several.", hint="See: tidewatch alerts list --all"
        )
    if as_json:
        console.print_json(msgspec.json.encode(found).decode())
        return
    alert, ours = found.alert, found.alert["tidewatch"]
    console.print(Text(alert["message"], style=COLOURS[ours["severity"]]))
    console.print(f"id {ours['alert_id']}  bundle {ours['bundle']['name']} {ours['bundle']['version'][:12]}", highlight=False)
    why = listing("metric", "share", "seen", "expected", title="Why")
    for metric in ours["metrics"]:
        why.add_row(metric["name"], f"{metric['share']:.0%}", _number(metric["actual"]), _number(metric["expected"]))
    life = listing("at (UTC)", "what", "severity", "reason", whole={"at (UTC)"}, title="Its life")
    for event in found.events:
        at, what = to_the_second(event["@timestamp"]), event["event"]
        life.add_row(at, what["action"], event["tidewatch"]["severity"], what["reason"])
    console.print(why)
    console.print(life)
    if found.notifications:
        console.print(told_table(found.notifications))
    else:
        console.print(untold(ours), highlight=False, markup=False)


@alerts_app.command("export", epilog="Example: tidewatch alerts export --since 30d --format csv > alerts.csv")
def export_alerts(
    since: Since = None,
    until: Until = None,
    entity: Entity = None,
    severity: AtLeast = None,
    status: InStatus = None,
    everything: Pending = False,
    form: Annotated[Format, typer.Option("--format", help="One JSON document a line, or CSV with the main fields.")] = Format.JSONL,
    config: ConfigOption = None,
) -> None:
    """Write alerts to standard output, however many there are."""
    settings = read_settings(config, quiet=True)
    run_async(_export(settings, _filters(since, until, entity, severity, status, everything), form))


def notify_sample(
    receiver: Annotated[list[str] | None, typer.Option(help="Only this receiver (may be repeated).")] = None,
    config: ConfigOption = None,
) -> None:
    """Send a sample alert to every receiver, and say what each one answered.

    Exit status 1 when a receiver did not take it.
    """
    settings = read_settings(config, quiet=True)
    if not run_async(_send_samples(settings, receiver)):
        raise typer.Exit(1)


def told_table(found: list[dict[str, Any]]) -> Table:
    """Notification documents as a table for people."""
    names = "due (UTC)", "receiver", "state", "at (UTC)", "tries", "why", "alerts in it", "problem"
    table = listing(*names, title="Who was told")
    for each in found:
        ours = each["tidewatch"]
        state = Text(ours["state"].replace("_", " "), style=DELIVERY_COLOURS[ours["state"]])
        due, at = (to_the_second(moment) for moment in (each["@timestamp"], ours["updated_at"]))
        told = (due, ours["receiver"]), (at, str(ours["attempts"]), each["event"]["reason"])
        problem = Text(ours["problem"] or "")
        table.add_row(*told[0], state, *told[1], f"{ours['alerts']:,}", problem)
    return table


def untold(ours: Mapping[str, Any]) -> str:
    """Why no message about an alert is known."""
    if ours["muted_by"]:
        return f"Nobody was told: {ours['muted_by']}."
    if "fired_at" not in ours:
        return "Nobody was told: it never fired."
    return "Nobody was told yet: no message about it is due, or no route leads it to a receiver."


def flat(alert: Mapping[str, Any]) -> dict[str, Any]:
    """The main fields of an alert document, for CSV."""
    whole = {**alert["tidewatch"], **alert["event"], "severity": alert["tidewatch"]["severity"], "message": alert["message"]}
    return {column: whole.get(column) for column in COLUMNS}


def _filters(
    since: str | None, until: str | None, entity: str | None, severity: Severity | None, status: Status | None, everything: bool
) -> dict[str, Any]:
    now = SystemClock().now_ms()
    return {
        "since": parse_moment(since, now),
        "until": parse_moment(until, now),
        "entity": entity,
        "severity": severity,
        "status": status,
        "told_only": not everything,
    }


async def _list(settings: Settings, filters: dict[str, Any], limit: int) -> list[dict[str, Any]]:
    from service.app import build_history

    history = build_history(settings)
    try:
        found: list[dict[str, Any]] = await history.find(**filters, limit=limit)
        return found
    finally:
        await history.close()


async def _show(settings: Settings, alert_id: str) -> Any:
    from service.app import build_history

    history = build_history(settings)
    try:
        return await history.show(alert_id)
    finally:
        await history.close()


async def _export(settings: Settings, filters: dict[str, Any], form: Format) -> None:
    from service.app import build_history

    history = build_history(settings)
    rows = csv.DictWriter(sys.stdout, COLUMNS)
    if form is Format.CSV:
        rows.writeheader()
    try:
        async for alert in history.scan(**filters):
            if form is Format.CSV:
                rows.writerow(flat(alert))
            else:
                sys.stdout.write(msgspec.json.encode(alert).decode() + "\n")
    finally:
        await history.close()


async def _send_samples(settings: Settings, wanted: list[str] | None) -> bool:
    from service.alerts.messages.sample import sample_alert
    from service.app import build_notifiers

    notifiers = build_notifiers(settings)
    if not notifiers:
        raise ConfigError("No receiver is configured.", hint="Add one under notifications.receivers in the settings.")
    unknown = sorted(set(wanted or ()) - set(notifiers))
    if unknown:
        raise ConfigError(f"There is no receiver named {unknown[0]!r}.", hint=f"Known: {', '.join(sorted(notifiers))}.")
    firing, _ = sample_alert(SystemClock().now_ms())
    good = True
    for name, notifier in notifiers.items():
        if wanted and name not in wanted:
            continue
        try:
            await notifier.send([firing], key=f"test-{firing.alert_id}")
            console.print(f"[green]✔[/] {name}: sent")
        except (DeliveryFailed, DeliveryRefused) as error:
            good = False
            console.print(f"[red]✘[/] {name}: {error}", highlight=False)
        finally:
            await notifier.close()
    return good


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
