"""``tidewatch check``: reads the settings and the bundles, reaches every server, and shows what is wrong in one table."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import typer

from service.commands.common import ConfigOption, JsonOption, read_settings, run_async
from service.errors import Stop, TidewatchError
from service.settings import EmailReceiver, Settings, reveal, without_password
from service.terminal import console, left_out_metrics, listing, print_json, print_text, rarest_claim, tick

if TYPE_CHECKING:
    from service.detectors.bundle import Bundle

REACH_SECONDS = 5.0


@dataclass(frozen=True)
class CheckResult:
    """One line of the table: what was checked, whether it is good, and what was found."""

    what: str
    good: bool
    detail: str


def register(app: typer.Typer) -> None:
    """Add this file's commands to ``app``."""
    app.command("check", epilog="Example: tidewatch check --config tidewatch.yaml")(check)


def check(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Read the settings and the bundles, reach every server, and show what is wrong in one table.

    Nothing is changed and nothing is sent. Exit status 1 when something is wrong.
    """
    settings = impatient(read_settings(config, quiet=True))
    results = [*check_models(settings), *run_async(_check_servers(settings))]
    if as_json:
        print_json(results)
    else:
        table = listing("", "what", "detail")
        for result in results:
            table.add_row(tick(result.good), result.what, result.detail)
        console.print(table)
    wrong = sum(not result.good for result in results)
    if wrong:
        if not as_json:
            print_text(f"{wrong} of {len(results)} need attention.")
        raise typer.Exit(1)


def impatient(settings: Settings) -> Settings:
    """The same settings, with time-outs of a few seconds: a check should answer soon, also about a server that is down."""
    kafka = settings.kafka.model_copy(update={"connect_timeout_seconds": REACH_SECONDS})
    elasticsearch = settings.elasticsearch.model_copy(update={"request_timeout_seconds": REACH_SECONDS})
    return settings.model_copy(update={"kafka": kafka, "elasticsearch": elasticsearch})


def check_models(settings: Settings) -> list[CheckResult]:
    """Every bundle: can it be read, which severity does it support, and is that enough for the receivers and routes?"""
    from service.app import open_bundle

    if not settings.models:
        return [CheckResult("models", False, "None is configured. Train one (tidewatch train) and name it under models.")]
    results = []
    for rule in settings.models:
        what = f"bundle {rule.bundle} for {rule.match}"
        try:
            bundle = open_bundle(rule.bundle)
        except Stop as error:
            results.append(CheckResult(what, False, _sentence(error)))
            continue
        results.append(CheckResult(what, True, _describe(bundle) + _budget_beyond_support(bundle, settings)))
    return results


def _describe(bundle: Bundle) -> str:
    tail = bundle.calibration()
    detail = (
        f"{bundle.schema.dims} metrics, window {bundle.window} × {bundle.schema.interval_ms / 1000:g} s; "
        f"calibrated on {tail.n_eff:,.0f} independent windows: claims at most one window in {1 / tail.floor:,.0f}, "
        f"{rarest_claim(bundle)}"
    )
    return f"{detail}; left out: {left_out_metrics(bundle)}" if bundle.scaler.left_out else detail


def _budget_beyond_support(bundle: Bundle, settings: Settings) -> str:
    """Says so where the alert budget is rarer than the calibration supports, and where levels start instead."""
    per_day = settings.detection.budget.per_entity_day(len(bundle.scaler.entities))
    asked, starts = bundle.budget(per_day, floor_p=0.0), bundle.budget(per_day)
    if starts.start >= asked.start:
        return ""
    supported = per_day * 10 ** (asked.start - starts.start)
    return (
        f"; the alert budget of {per_day:.2g} a day for each entity is rarer than this calibration supports: levels start at about"
        f" {supported:.2g} a day and adapt; more training data, or a larger detection.budget, avoids that"
    )


async def _check_servers(settings: Settings) -> list[CheckResult]:
    from service.app import build_notifiers

    kafka = settings.kafka
    results = [
        await _result(f"Kafka at {kafka.bootstrap_servers}", lambda: _check_topics(settings)),
        await _result(f"Elasticsearch at {without_password(settings.elasticsearch.url)}", lambda: _check_store(settings)),
    ]
    try:
        for notifier in build_notifiers(settings).values():
            await notifier.close()
    except Stop as error:
        return [*results, CheckResult("receivers", False, _sentence(error))]
    return results + [
        await _result(f"receiver {receiver.name}", lambda receiver=receiver: _reach(receiver))  # type: ignore[misc]  # bound now
        for receiver in settings.notifications.receivers
    ]


async def _result(what: str, look: Callable[[], Awaitable[str]]) -> CheckResult:
    try:
        return CheckResult(what, True, await look())
    except TidewatchError as error:
        return CheckResult(what, False, _sentence(error))


def _sentence(error: TidewatchError) -> str:
    return f"{error} {error.hint if isinstance(error, Stop) else ''}".strip()


async def _check_topics(settings: Settings) -> str:
    from service.state.topics import inspect_topics

    topics = await inspect_topics(settings.kafka)
    missing = [topic.name for topic in topics if topic.outcome == "missing"]
    if missing:
        raise Stop(f"These topics are missing: {', '.join(missing)}.", hint="Run: tidewatch setup")
    for topic in topics:
        if topic.outcome == "too-few":
            raise Stop(f"{topic.name}: {topic.detail}; those without a counterpart cannot be read.", hint="Run: tidewatch setup")
    differs = [f"{topic.name}: {topic.detail}" for topic in topics if topic.outcome == "differs"]
    return "; ".join([f"all {len(topics)} topics exist", *differs])


async def _check_store(settings: Settings) -> str:
    from service.app import build_alert_store

    store = build_alert_store(settings)
    try:
        found: str = await store.check()
        return found
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
    return f"{receiver.type} at {host}:{port} can be reached; gets alerts from {receiver.min_severity} up"


def _address(receiver: Any) -> tuple[str, int]:
    if isinstance(receiver, EmailReceiver):
        return receiver.host, receiver.port
    url = urlsplit(reveal(receiver.url, receiver.url_file) or "")
    return url.hostname or "", url.port or (80 if url.scheme == "http" else 443)
