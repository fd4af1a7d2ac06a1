"""``tidewatch test-notify``: sends a sample alert to the receivers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from service.clock import SystemClock
from service.commands.common import ConfigOption, read_settings, run_async
from service.errors import ConfigError, DeliveryFailed, DeliveryRefused
from service.settings import Settings
from service.terminal import plain, print_text, tick

if TYPE_CHECKING:
    from service.alerts.messages.circumstances import Circumstances
    from service.domain import Alert


def register(app: typer.Typer) -> None:
    """Add this file's commands to ``app``."""
    app.command("test-notify", epilog="Example: tidewatch test-notify --receiver oncall-slack")(notify_sample)


def notify_sample(
    receiver: Annotated[list[str] | None, typer.Option(help="Only this receiver (may be repeated).")] = None,
    config: ConfigOption = None,
) -> None:
    """Send a sample alert to every receiver, and show how each one answered.

    Exit status 1 when a receiver did not accept it.
    """
    settings = read_settings(config, quiet=True)
    if not run_async(_send_samples(settings, receiver)):
        raise typer.Exit(1)


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
    known = {firing.alert_id: _circumstances(firing, settings)}
    good = True
    for name, notifier in notifiers.items():
        if wanted and name not in wanted:
            continue
        answer = "sent"
        try:
            await notifier.send([firing], key=f"test-{firing.alert_id}", circumstances=known)
        except (DeliveryFailed, DeliveryRefused) as error:
            good, answer = False, str(error)
        finally:
            await notifier.close()
        print_text(tick(answer == "sent") + plain(f" {name}: {answer}"))
    return good


def _circumstances(firing: Alert, settings: Settings) -> Circumstances:
    """As of a real alert: time zone, units and links of the settings, and when its route would remind."""
    from service.alerts.messages.circumstances import Circumstances
    from service.alerts.notify.facts import with_settings
    from service.alerts.notify.routing import matching

    routes = settings.notifications.effective_routes()
    repeats = {name: routes[at].repeat_interval_seconds for name, at in matching(firing, routes).items()}
    known = Circumstances(now_ms=firing.updated_at, repeat_after_s=min(repeats.values(), default=None))
    return with_settings(known, firing, settings.notifications)
