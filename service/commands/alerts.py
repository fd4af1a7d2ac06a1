"""``tidewatch alerts list``, ``show`` and ``export``: the alert history. ``ack`` and ``mark`` are in ``operators.py``."""

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
from service.commands.common import AlertId, ConfigOption, JsonOption, Since, parse_moment, read_settings, run_async
from service.domain import Severity, Status
from service.errors import NotFound
from service.settings import Settings
from service.terminal import COLOURS, console, history_table, listing, plain, print_json, print_text, to_the_second

# The states of a notification as records name them: what the table calls them, and in which colour.
DELIVERY_STATES = {
    "sent": ("sent", "green"),
    "owed": ("pending", "yellow"),
    "refused": ("refused", "bold red"),
    "gave_up": ("given up", "bold red"),
}
COLUMNS = ("alert_id", "entity", "status", "severity", "peak_severity", "start", "end", "peak_score", "top_metric", "message")

Until = Annotated[str | None, typer.Option(help="Only what is older than this, written as --since.", show_default=False)]
Entity = Annotated[str | None, typer.Option(help="Only this entity; * and ? are wildcards.", show_default=False)]
AtLeast = Annotated[Severity | None, typer.Option("--severity", help="Only with at least this peak severity.", show_default=False)]
InStatus = Annotated[Status | None, typer.Option("--status", help="Only alerts that have this status now.", show_default=False)]
Unfired = Annotated[bool, typer.Option("--all", help="Also alerts that never fired, about which nothing was sent.")]


class Format(StrEnum):
    """Ways to export."""

    JSONL = "jsonl"
    CSV = "csv"


alerts_app = typer.Typer(help="Show, acknowledge and judge alerts.", no_args_is_help=True, rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    """Add this file's commands to ``app``."""
    app.add_typer(alerts_app, name="alerts")


@alerts_app.command("list", epilog="Example: tidewatch alerts list --since 24h --severity warning --entity 'db-*'")
def list_alerts(
    since: Since = None,
    until: Until = None,
    entity: Entity = None,
    severity: AtLeast = None,
    status: InStatus = None,
    everything: Unfired = False,
    limit: Annotated[int, typer.Option(min=1, help="At most this many.")] = 50,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List alerts by their start, newest first."""
    settings = read_settings(config, quiet=True)
    filters = _filters(since, until, entity, severity, status, everything)
    found = run_async(_list(settings, filters, limit))
    if as_json:
        print_json(found)
    elif not found:
        print_text("No alert matches.")
    else:
        console.print(history_table(found))


@alerts_app.command("show", epilog="Example: tidewatch alerts show 3f9c1a")
def show_alert(alert_id: AlertId, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show one alert: the metrics that explain it, its transitions, and the messages sent about it."""
    settings = read_settings(config, quiet=True)
    found = run_async(_show(settings, alert_id))
    if found is None:
        raise NotFound(
            f"There is no alert whose id begins with {alert_id!r}, or there are several.", hint="See: tidewatch alerts list --all"
        )
    if as_json:
        print_json(found)
        return
    alert, ours = found.alert, found.alert["tidewatch"]
    print_text(plain(alert["message"], style=COLOURS[ours["severity"]]))
    print_text(f"id {ours['alert_id']}  bundle {ours['bundle']['name']} {ours['bundle']['version'][:12]}")
    metrics = listing("metric", "share", "actual", "expected", title="Metrics that explain it")
    for metric in ours["metrics"]:
        metrics.add_row(metric["name"], f"{metric['share']:.0%}", _number(metric["actual"]), _number(metric["expected"]))
    transitions = listing("at (UTC)", "what", "severity", "reason", whole={"at (UTC)"}, title="Transitions")
    for event in found.events:
        at, what = to_the_second(event["@timestamp"]), event["event"]
        transitions.add_row(at, what["action"], event["tidewatch"]["severity"], what["reason"])
    console.print(metrics)
    console.print(transitions)
    if found.notifications:
        console.print(notifications_table(found.notifications))
    else:
        print_text(why_nothing_was_sent(ours))


@alerts_app.command("export", epilog="Example: tidewatch alerts export --since 30d --format csv > alerts.csv")
def export_alerts(
    since: Since = None,
    until: Until = None,
    entity: Entity = None,
    severity: AtLeast = None,
    status: InStatus = None,
    everything: Unfired = False,
    form: Annotated[Format, typer.Option("--format", help="One JSON document a line, or CSV with the main fields.")] = Format.JSONL,
    config: ConfigOption = None,
) -> None:
    """Write every alert that matches to standard output."""
    settings = read_settings(config, quiet=True)
    run_async(_export(settings, _filters(since, until, entity, severity, status, everything), form))


def notifications_table(found: list[dict[str, Any]]) -> Table:
    """Notification documents as a table."""
    names = "due (UTC)", "receiver", "state", "at (UTC)", "tries", "why", "alerts in it", "problem"
    table = listing(*names, title="Messages")
    for each in found:
        ours = each["tidewatch"]
        table.add_row(
            to_the_second(each["@timestamp"]),
            ours["receiver"],
            Text(*DELIVERY_STATES[ours["state"]]),
            to_the_second(ours["updated_at"]),
            str(ours["attempts"]),
            each["event"]["reason"],
            f"{ours['alerts']:,}",
            ours["problem"] or "",
        )
    return table


def why_nothing_was_sent(ours: Mapping[str, Any]) -> str:
    """Why the history holds no message about an alert (``ours``: the ``tidewatch`` fields of its document)."""
    if ours["muted_by"]:
        return f"No message was sent: {ours['muted_by']}."
    if "fired_at" not in ours:
        return "No message was sent: the alert never fired."
    return "No message was sent yet: none is due, or no route leads the alert to a receiver."


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


def in_a_cell(value: Any) -> Any:
    """A value as a spreadsheet may have it: text that would be a formula there begins with an apostrophe instead."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


async def _export(settings: Settings, filters: dict[str, Any], form: Format) -> None:
    from service.app import build_history

    history = build_history(settings)
    rows = csv.DictWriter(sys.stdout, COLUMNS)
    if form is Format.CSV:
        rows.writeheader()
    try:
        async for alert in history.scan(**filters):
            if form is Format.CSV:
                rows.writerow({name: in_a_cell(value) for name, value in flat(alert).items()})
            else:
                sys.stdout.write(msgspec.json.encode(alert).decode() + "\n")
    finally:
        await history.close()


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
