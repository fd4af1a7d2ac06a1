"""Which groups an alert belongs to: routes, the labels it is grouped by, and the timing of each group. Pure.

A route is identified by its matchers. The list of routes is flat, so no two routes with the same matchers serve the same receiver
(the first takes it), and the identity stays when routes are inserted, reordered, or given other timing.
"""

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


class Destination(msgspec.Struct, frozen=True):
    """The group of one receiver that an alert goes to. ``route``: see ``route_id``."""

    receiver: str
    route: str
    labels: dict[str, str]

    @property
    def key(self) -> str:
        """Identity of the group."""
        return group_key(self.receiver, self.route, self.labels)


class Routes:
    """The routes of the settings: where an alert goes, and the policy of a receiver on a route."""

    def __init__(self, settings: NotificationSettings) -> None:
        self._routes = settings.effective_routes()
        self._ids = [route_id(rule) for rule in self._routes]
        self._policies: dict[tuple[str, str], Policy] = {}
        self._min_severity = {receiver.name: Severity(receiver.min_severity) for receiver in settings.receivers}
        self._send_resolved = settings.send_resolved

    def destinations_of(self, alert: Alert) -> dict[str, Destination]:
        """The group this alert goes to, by receiver."""
        return {
            receiver: Destination(receiver, self._ids[at], group_labels(alert, self._routes[at].group_by))
            for receiver, at in matching(alert, self._routes).items()
        }

    def policy_of(self, receiver: str, route: str) -> Policy:
        """The timing and filter of one receiver on one route. A group whose route is gone has the default timing: all it may
        still send is that its alerts resolved."""
        policy = self._policies.get((receiver, route))
        if policy is None:
            policy = self._policies[receiver, route] = self._policy(receiver, route)
        return policy

    def _policy(self, receiver: str, route: str) -> Policy:
        serving = (rule for rule, name in zip(self._routes, self._ids, strict=True) if name == route and receiver in rule.receivers)
        rule = next(serving, RouteSettings(receivers=[receiver]))
        return Policy(
            group_wait=round(rule.group_wait_seconds * 1000),
            group_interval=round(rule.group_interval_seconds * 1000),
            repeat_interval=round(rule.repeat_interval_seconds * 1000),
            min_severity=self._min_severity.get(receiver, Severity.INFO),
            send_resolved=self._send_resolved,
        )

    def id_of(self, number: int, receiver: str, labels: Mapping[str, str]) -> str | None:
        """Identity of the route with this number, where it serves this receiver and groups by these labels."""
        if number >= len(self._routes):
            return None
        rule = self._routes[number]
        return self._ids[number] if receiver in rule.receivers and set(labels) == set(rule.group_by) else None


def matching(alert: Alert, routes: Sequence[RouteSettings]) -> dict[str, int]:
    """The index of the route by which this alert goes to each receiver: the first that matches; empty when none does."""
    found: dict[str, int] = {}
    for at, rule in enumerate(routes):
        if matches(alert, rule.match):
            for receiver in rule.receivers:
                found.setdefault(receiver, at)
            if not rule.continue_matching:
                break
    return found


def route_id(rule: RouteSettings) -> str:
    """Identity of a route: its matchers, as JSON."""
    return msgspec.json.encode(dict(sorted(rule.match.items()))).decode()


def group_labels(alert: Alert, group_by: Sequence[str]) -> dict[str, str]:
    """The values an alert is grouped by."""
    return {name: attribute(alert, name) for name in group_by}


def group_key(receiver: str, route: str, labels: Mapping[str, str]) -> str:
    """Identity of a group, as text."""
    return msgspec.json.encode([receiver, route, dict(sorted(labels.items()))]).decode()
