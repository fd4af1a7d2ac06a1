"""Reads groups recorded before 0.1.0, whose key held the number of their route (decision 0016). Pure.

A number says nothing once the routes have changed, and an alert that had changed its route or group while it fired was left in
its old group for ever. So a group takes over the identity of the route with its number only where that route still fits; each
alert is kept in one group only; and an alert that is recorded as firing counts as firing once its next transition says so.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from service.alerts.notify.grouping import Entry, Group
from service.alerts.notify.routing import Routes
from service.domain import Status

_MARK = "#"  # identities of routes begin with a brace


def text_of(route: int | str) -> str:
    """The route of a record: its identity, or a mark that no route has in place of a number."""
    return f"{_MARK}{route}" if isinstance(route, int) else route


def with_route_ids(recorded: Mapping[str, Group], routes: Routes) -> dict[str, Group]:
    """The groups by the key they are recorded under, those with a numbered route as the docstring of this module says."""
    groups = dict(recorded)
    numbered = {key for key, group in groups.items() if group.route.startswith(_MARK)}
    for key in numbered:
        group = _unconfirmed(groups[key])
        found = routes.id_of(int(group.route.removeprefix(_MARK)), group.receiver, group.labels)
        renamed = _with_route(group, found or group.route)
        groups[key] = renamed if renamed.key not in recorded else _with_route(group, group.route)
    return _each_alert_once(groups) if numbered else groups


def _unconfirmed(group: Group) -> Group:
    entries = {
        alert_id: msgspec.structs.replace(entry, unconfirmed=True) if _counts_as_firing(entry) else entry
        for alert_id, entry in group.entries.items()
    }
    return msgspec.structs.replace(group, entries=entries)


def _counts_as_firing(entry: Entry) -> bool:
    return entry.notified is not None and entry.alert.status is Status.FIRING


def _with_route(group: Group, route: str) -> Group:
    group = msgspec.structs.replace(group, route=route)
    if group.pending is None:
        return group
    return msgspec.structs.replace(group, pending=msgspec.structs.replace(group.pending, group_key=group.key))


def _each_alert_once(groups: Mapping[str, Group]) -> dict[str, Group]:
    """Of an alert in several groups of a receiver: its newest state, in the group whose pending message names it, or else where
    that state is."""
    places: dict[tuple[str, str], list[str]] = {}
    for key, group in groups.items():
        for alert_id in group.entries:
            places.setdefault((group.receiver, alert_id), []).append(key)
    kept = {key: dict(group.entries) for key, group in groups.items()}
    for (_, alert_id), keys in places.items():
        if len(keys) == 1:
            continue
        copies = {key: kept[key].pop(alert_id) for key in keys}
        newest = max(copies, key=lambda key: copies[key].alert.seq)
        known = [copy.notified for copy in copies.values() if copy.notified is not None]
        notified = copies[newest].notified or max(known, key=lambda each: each.severity.rank, default=None)
        home = next((key for key in keys if groups[key].holds_pending(alert_id)), newest)
        kept[home][alert_id] = msgspec.structs.replace(copies[newest], notified=notified)
    return {key: msgspec.structs.replace(group, entries=kept[key]) for key, group in groups.items()}
