"""``tidewatch setup``, ``check`` and ``demo``: making the servers ready, seeing whether they are, and seeing it all work."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import stamina
import typer

from service.commands.common import ConfigOption, JsonOption, read_settings, run_async
from service.domain import Severity, SeverityBounds
from service.errors import Stop, TidewatchError
from service.observability.logging import configure_logging
from service.settings import EmailReceiver, Settings, reveal
from service.terminal import ceiling_words, console, left_out_words, listing, reach_words

if TYPE_CHECKING:
    from service.detectors.decision.calibration import Calibration

REACH_SECONDS = 5.0


@dataclass(frozen=True)
class CheckResult:
    """One line of the table: what was looked at, whether it is good, and what is the matter or what was found."""

    what: str
    good: bool
    detail: str


def register(app: typer.Typer) -> None:
    """Add this file's commands to ``app``."""
    app.command("setup", epilog="Example: tidewatch setup --config tidewatch.yaml")(setup)
    app.command("demo", epilog="Example: tidewatch demo, or: tidewatch demo --data metrics.parquet --speed 200")(demo)
    app.command("check", epilog="Example: tidewatch check --config tidewatch.yaml")(check)


def setup(config: ConfigOption = None) -> None:
    """Create the topics and the index templates. Safe to repeat: what is there already stays as it is."""
    settings = read_settings(config, quiet=True)
    table = listing("what", "state", "detail")
    for row in run_async(_setup(settings)):
        table.add_row(*row)
    console.print(table)


def demo(
    data: Annotated[Path | None, typer.Option(help="Replay this data set (npz, csv, parquet, jsonl) instead.")] = None,
    speed: Annotated[float | None, typer.Option(min=0.001, help="Rows a second of the replay.", show_default=False)] = None,
) -> None:
    """Show the whole path on this machine: real servers, real metrics, a real fault, and the alert about it.

    Takes about three minutes. Ctrl-C ends it; nothing is left behind.
    """
    try:
        from service.demo.demo import play
    except ModuleNotFoundError as error:
        raise Stop(f"The demo needs {error.name}, which is not installed.", hint="Install tidewatch[local].") from error
    configure_logging("critical", "auto")
    stamina.instrumentation.set_on_retry_hooks([])
    try:
        run_async(play(console, data=data, speed=speed))
    except asyncio.CancelledError:
        raise typer.Exit(143) from None


async def _setup(settings: Settings) -> list[tuple[str, str, str]]:
    from service.app import build_alert_store
    from service.state.topics import create_topics

    rows = [(f"topic {topic.name}", str(topic.outcome), topic.detail) for topic in await create_topics(settings.kafka)]
    store = build_alert_store(settings)
    try:
        await store.install_templates()
    finally:
        await store.close()
    prefix = settings.elasticsearch.index_prefix
    return [*rows, (f"index templates {prefix}-*", "installed", settings.elasticsearch.url)]


def check(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Read the settings and the bundles, reach every server, and say in one table what is wrong.

    Nothing is changed and nobody is notified. Exit status 1 when something is wrong.
    """
    settings = impatient(read_settings(config, quiet=True))
    findings = [*check_models(settings), *run_async(_check_servers(settings))]
    if as_json:
        console.print_json(data=[vars(finding) for finding in findings])
    else:
        table = listing("", "what", "detail")
        for finding in findings:
            table.add_row("[green]✔[/]" if finding.good else "[red]✘[/]", finding.what, finding.detail)
        console.print(table)
    wrong = sum(not finding.good for finding in findings)
    if wrong:
        console.print(f"{wrong} of {len(findings)} need attention.")
        raise typer.Exit(1)


def impatient(settings: Settings) -> Settings:
    """The same settings, but a server that does not answer within a few seconds is away."""
    kafka = settings.kafka.model_copy(update={"connect_timeout_seconds": REACH_SECONDS})
    elasticsearch = settings.elasticsearch.model_copy(update={"request_timeout_seconds": REACH_SECONDS})
    return settings.model_copy(update={"kafka": kafka, "elasticsearch": elasticsearch})


def check_models(settings: Settings) -> list[CheckResult]:
    """Every bundle: can it be read, what can it support, and does that reach the receivers and routes?"""
    from service.alerts.control.matchers import holds
    from service.app import open_bundle

    if not settings.models:
        return [CheckResult("models", False, "None is configured. Train one (tidewatch train) and name it under models.")]
    findings = []
    loudest = Severity.INFO
    for rule in settings.models:
        what = f"bundle {rule.bundle} for {rule.match}"
        try:
            bundle = open_bundle(rule.bundle)
        except Stop as error:
            findings.append(CheckResult(what, False, f"{error} {error.hint}"))
            continue
        tail = bundle.calibration()
        bounds = settings.alerts.bounds
        loudest = max(loudest, bounds.of(tail.ceiling), key=lambda severity: severity.rank)
        reach = f"{reach_words(tail, bounds)}{_beyond(tail, bounds, bundle.window)}"
        detail = (
            f"{bundle.schema.dims} metrics, window {bundle.window} × {bundle.schema.interval_ms / 1000:g} s; "
            f"calibrated on {tail.n_eff:,.0f} independent windows, which supports {reach}"
        )
        if bundle.scaler.left_out:
            detail += f"; left out: {left_out_words(bundle)}"
        findings.append(CheckResult(what, True, detail))
    for receiver in settings.notifications.receivers:
        if Severity(receiver.min_severity).rank > loudest.rank:
            detail = f"wants at least {receiver.min_severity}, but no bundle supports more than {loudest}: it would never be told"
            findings.append(CheckResult(f"receiver {receiver.name}", False, detail))
    for number, route in enumerate(settings.notifications.routes, start=1):
        wanted = [severity for severity in Severity if holds(severity, route.match.get("severity", "*"))]
        if wanted and min(severity.rank for severity in wanted) > loudest.rank:
            detail = (
                f"matches severity {route.match['severity']}, but no bundle supports more than {loudest}: no anomaly will match"
            )
            findings.append(CheckResult(f"route {number}", True, detail))
    return findings


def _beyond(tail: Calibration, bounds: SeverityBounds, window: int) -> str:
    """What the severities beyond a calibration's reach would take."""
    from service.detectors.decision.calibration import windows_for

    louder = [severity for severity in Severity if severity.rank > bounds.of(tail.ceiling).rank]
    if not louder:
        return ""
    rows = [f"{severity} takes {math.ceil(windows_for(bounds.below(severity)) * window):,} held-out rows" for severity in louder]
    return f"; {', '.join(rows)}, or alerts.{louder[0]}_above under {ceiling_words(tail)}"


async def _check_servers(settings: Settings) -> list[CheckResult]:
    from service.app import build_notifiers

    kafka = settings.kafka
    findings = [
        await _finding(f"Kafka at {kafka.bootstrap_servers}", lambda: _check_topics(settings)),
        await _finding(f"Elasticsearch at {settings.elasticsearch.url}", lambda: _check_store(settings)),
    ]
    try:
        for notifier in build_notifiers(settings).values():
            await notifier.close()
    except Stop as error:
        return [*findings, CheckResult("receivers", False, f"{error} {error.hint}")]
    return findings + [
        await _finding(f"receiver {receiver.name}", lambda receiver=receiver: _reach(receiver))  # type: ignore[misc]  # bound now
        for receiver in settings.notifications.receivers
    ]


async def _finding(what: str, look: Callable[[], Awaitable[str]]) -> CheckResult:
    try:
        return CheckResult(what, True, await look())
    except TidewatchError as error:
        return CheckResult(what, False, f"{error} {error.hint if isinstance(error, Stop) else ''}".strip())


async def _check_topics(settings: Settings) -> str:
    from service.state.topics import inspect_topics

    topics = await inspect_topics(settings.kafka)
    missing = [topic.name for topic in topics if topic.outcome == "missing"]
    if missing:
        raise Stop(f"There is no topic {' and no topic '.join(missing)}.", hint="Run: tidewatch setup")
    differs = [f"{topic.name}: {topic.detail}" for topic in topics if topic.outcome == "differs"]
    return "; ".join([f"all {len(topics)} topics are there", *differs])


async def _check_store(settings: Settings) -> str:
    from service.app import build_alert_store

    store = build_alert_store(settings)
    try:
        said: str = await store.check()
        return said
    finally:
        await store.close()


async def _reach(receiver: Any) -> str:
    """Open a connection and close it again; nothing is sent."""
    host, port = _address(receiver)
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), REACH_SECONDS)
    except (OSError, TimeoutError) as error:
        raise Stop(
            f"{host}:{port} cannot be reached ({type(error).__name__}).", hint="Check its address and the network."
        ) from error
    writer.close()
    return f"{receiver.type} at {host}:{port} can be reached; from {receiver.min_severity} up"


def _address(receiver: Any) -> tuple[str, int]:
    if isinstance(receiver, EmailReceiver):
        return receiver.host, receiver.port
    url = urlsplit(reveal(receiver.url, receiver.url_file) or "")
    return url.hostname or "", url.port or (80 if url.scheme == "http" else 443)
