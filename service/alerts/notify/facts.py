"""What a message says of the circumstances of its alerts: found when it becomes due, recorded with it, and completed from the
settings at each try."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import quote

import msgspec

from service.alerts.control.matchers import attribute, matches
from service.alerts.messages.circumstances import Circumstances
from service.alerts.messages.groups import rank_first
from service.alerts.notify.earlier_alerts import EarlierAlerts
from service.alerts.notify.grouping import Entry, Found, Notification, change_of
from service.alerts.notify.routing import Policy
from service.alerts.notify.surroundings import OpenAlerts
from service.alerts.notify.timing import REMINDER
from service.domain import Alert, DataSnapshot, Status
from service.observability.logging import get_logger
from service.settings import LinkSettings, NotificationSettings

log = get_logger("notify")

FOUND_FOR = 20  # alerts of a message, those that it shows first
LINKED = 500  # alerts of a message whose links are looked up: no receiver shows more


class Facts:
    """Follows the alerts, and says what is known around those of a message."""

    def __init__(self, settings: NotificationSettings, earlier: EarlierAlerts) -> None:
        self._settings = settings
        self._earlier = earlier
        self._open = OpenAlerts()

    def observe(self, alert: Alert) -> None:
        """Take one transition in."""
        with _no_page_is_lost():
            self._open.observe(alert)
            self._earlier.observe(alert)

    def take_in(self, seen: DataSnapshot) -> None:
        """How many entities have which labels, as the scoring processes report it."""
        with _no_page_is_lost():
            self._open.take_in(seen.reports)

    def forget(self) -> None:
        """Another process notifies from now on."""
        self._open.clear()

    def found(self, message: Notification, policy: Policy) -> dict[str, Found]:
        """What is known now around the alerts that the message shows first."""
        with _no_page_is_lost():
            known = {entry.alert.alert_id: self._plain(entry, message, policy) for entry in message.entries}
            first = rank_first(message.alerts, known)[:FOUND_FOR]
            around = self._open.around(first)
            return {alert.alert_id: Found(around[alert.alert_id], *self._earlier.of(alert)) for alert in first}
        return {}

    def circumstances(self, message: Notification, policy: Policy) -> dict[str, Circumstances]:
        """By alert id; the same at every try of the message."""
        with _no_page_is_lost():
            linked = {entry.alert.alert_id for entry in message.entries[:LINKED]} | message.found.keys()
            return {
                entry.alert.alert_id: self._plain(entry, message, policy, links=entry.alert.alert_id in linked)
                for entry in message.entries
            }
        return {}

    def _plain(self, entry: Entry, message: Notification, policy: Policy, *, links: bool = False) -> Circumstances:
        alert, found = entry.alert, message.found.get(entry.alert.alert_id, _NOTHING)
        goes_on = alert.status is not Status.RESOLVED
        known = Circumstances(
            now_ms=message.due_at,
            neighbours=found.surroundings.neighbours,
            neighbours_total=found.surroundings.neighbours_total,
            shared=found.surroundings.shared,
            earlier=found.earlier,
            earlier_count=found.earlier_count,
            repeat_after_s=policy.repeat_interval / 1000 if goes_on and alert.acknowledged_by is None else None,
            resolve_after_s=alert.resolve_after_ms / 1000 if goes_on and alert.resolve_after_ms and policy.send_resolved else None,
            notified_severity=None if entry.notified is None else entry.notified.severity,
            changed=entry.notified is not None and change_of(entry, policy) is not None,
            is_reminder=message.reason == REMINDER,
        )
        return with_settings(known, alert, self._settings, links=links)


@contextlib.contextmanager
def _no_page_is_lost() -> Iterator[None]:
    """A mistake of ours costs what it was to say, and no message."""
    try:
        yield
    except Exception as error:
        log.exception("a message says less than it could", cause=type(error).__name__)


_NOTHING = Found()
_FIELD = re.compile(r"\{([^{}]+)\}")


def with_settings(known: Circumstances, alert: Alert, settings: NotificationSettings, *, links: bool = True) -> Circumstances:
    """The circumstances with what the settings say: time zone, units and, if wanted, the links of this alert. Pure."""
    runbook, owner = links_of(alert, settings.links) if links else ("", "")
    units = tuple((each.match, each.unit) for each in settings.units)
    return msgspec.structs.replace(known, zone=settings.time_zone, units=units, runbook=runbook, owner=owner)


def links_of(alert: Alert, links: Sequence[LinkSettings]) -> tuple[str, str]:
    """The runbook and the owner of an alert: each from the first link that matches and has one; empty when none does. Pure."""
    fitting = [link for link in links if matches(alert, link.match)]
    runbook = next((link.runbook for link in fitting if link.runbook), "")
    owner = next((link.owner for link in fitting if link.owner), "")
    values: Mapping[str, str] = {"metric": alert.metrics[0].name if alert.metrics else "", "alert_id": alert.alert_id}

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        return quote(values[name] if name in values else attribute(alert, name), safe="")

    return _FIELD.sub(value, runbook), owner
