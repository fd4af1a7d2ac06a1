"""Which groups an alert belongs to: routes, the labels it is grouped by, and the timing of each group. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from service.alerts.control.matchers import attribute, matches
from service.domain import Alert, Severity
from service.settings import NotificationSettings, RouteSettings


class Policy(msgspec.Struct, frozen=True):
    """How one receiver's groups of one route are timed and filtered (milliseconds)."""

    group_wait: int
    group_interval: int
    repeat_interval: int
    min_severity: Severity = Severity.INFO
    send_resolved: bool = True


class Routes:
    """The routes of the settings: where an alert goes, and the policy of a receiver on a route."""

    def __init__(self, settings: NotificationSettings) -> None:
        self._routes = settings.effective_routes()
        self._min_severity = {receiver.name: Severity(receiver.min_severity) for receiver in settings.receivers}
        self._send_resolved = settings.send_resolved

    def __len__(self) -> int:
        return len(self._routes)

    def groups_of(self, alert: Alert) -> list[tuple[str, int, dict[str, str]]]:
        """(receiver, route number, group labels) of every group this alert goes to, one for each receiver."""
        return [
            (receiver, number, group_labels(alert, self._routes[number].group_by))
            for number, receiver in route(alert, self._routes)
        ]

    def policy_of(self, receiver: str, number: int) -> Policy:
        """The timing and filter of one receiver on one route."""
        rule = self._routes[number]
        return Policy(
            group_wait=round(rule.group_wait_seconds * 1000),
            group_interval=round(rule.group_interval_seconds * 1000),
            repeat_interval=round(rule.repeat_interval_seconds * 1000),
            min_severity=self._min_severity.get(receiver, Severity.INFO),
            send_resolved=self._send_resolved,
        )


def route(alert: Alert, routes: Sequence[RouteSettings]) -> list[tuple[int, str]]:
    """(route number, receiver) pairs this alert goes to, each receiver once; empty when no route matches."""
    found: dict[str, int] = {}
    for number, rule in enumerate(routes):
        if matches(alert, rule.match):
            for receiver in rule.receivers:
                found.setdefault(receiver, number)
            if not rule.continue_matching:
                break
    return [(number, receiver) for receiver, number in found.items()]


def group_labels(alert: Alert, group_by: Sequence[str]) -> dict[str, str]:
    """The values an alert is grouped by."""
    return {name: attribute(alert, name) for name in group_by}


def group_key(receiver: str, route_number: int, labels: Mapping[str, str]) -> str:
    """Identity of a group, as text."""
    return msgspec.json.encode([receiver, route_number, dict(sorted(labels.items()))]).decode()
