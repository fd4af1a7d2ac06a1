"""The groups of one receiver. An alert is in one of them at most, so what the receiver gets about it stays in order.

An alert whose route or labels change moves to its new group, with what the receiver knows of it. While a message about it is
pending it stays where it is: that message could arrive after one from another group. An alert that no route leads to this
receiver any more stays in its group until it resolves, and only that is sent; one that was never sent is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from service.alerts.notify.grouping import Entry, Group, Notification, absorb, change_of, settled
from service.alerts.notify.routing import Destination, Policy
from service.domain import Alert

MAX_ENTRIES = 50_000  # alerts in all groups of a receiver


class Arrival(msgspec.Struct, frozen=True):
    """A transition, its offset in the alerts topic (-1: none), and where the routes lead it (``None``: not to this receiver)."""

    alert: Alert
    offset: int
    destination: Destination | None


class ReceiverGroups:
    """The groups by key, and in which of them each alert is."""

    def __init__(self, policy_of: Callable[[str], Policy], on_change: Callable[[str, Group | None], None]) -> None:
        """``policy_of``: the policy of a route. ``on_change(key, group)``: a group changed, or was dropped (``None``)."""
        self._policy_of = policy_of
        self._on_change = on_change
        self._groups: dict[str, Group] = {}
        self._key_of: dict[str, str] = {}  # by alert id
        self._leaving: dict[str, Destination | None] = {}  # where an alert goes once the message about it is settled

    def __getitem__(self, key: str) -> Group:
        """The group with this key. Raises ``KeyError``."""
        return self._groups[key]

    def all(self) -> list[Group]:
        """Every group."""
        return list(self._groups.values())

    def put(self, group: Group) -> None:
        """Replace a group by a later state of it that holds the same alerts."""
        self._groups[group.key] = group
        self._on_change(group.key, group)

    def drop(self, group: Group) -> None:
        """Drop a group that is spent."""
        del self._groups[group.key]
        self._on_change(group.key, None)

    def clear(self) -> None:
        """Drop everything without noting it: another process continues with the groups."""
        self._groups.clear()
        self._key_of.clear()
        self._leaving.clear()

    def absorb(self, arrived: Sequence[Arrival], now: int) -> int:
        """Take transitions in. Alerts that are new when the receiver is ``MAX_ENTRIES`` behind are dropped; returns how many."""
        batch: dict[str, list[tuple[Alert, int]]] = {}
        in_batch: set[str] = set()
        dropped = 0
        for each in arrived:
            alert_id, destination = each.alert.alert_id, each.destination
            if self._leads_elsewhere(alert_id, destination):
                if alert_id in in_batch:  # what came before must be in the group before the alert leaves it
                    self._absorb_batch(batch, now)
                    in_batch.clear()
                self._relocate(alert_id, destination, now)
            key = self._key_of.get(alert_id)
            if key is None:
                if destination is None:
                    continue
                if len(self._key_of) >= MAX_ENTRIES:
                    dropped += 1
                    continue
                key = self._key_of[alert_id] = self._open(destination, now).key
            batch.setdefault(key, []).append((each.alert, each.offset))
            in_batch.add(alert_id)
        self._absorb_batch(batch, now)
        return dropped

    def settle(self, key: str, message: Notification, now: int) -> None:
        """The message was sent, refused or given up; alerts that waited for this move."""
        group = settled(self._groups[key], message, now, self._policy_of(self._groups[key].route))
        self.put(group)
        for alert_id in [entry.alert.alert_id for entry in message.entries]:
            if alert_id not in group.entries:
                self._key_of.pop(alert_id, None)
                self._leaving.pop(alert_id, None)
            elif alert_id in self._leaving:
                self._move(alert_id, self._leaving.pop(alert_id), now)

    def restore(self, recorded: Mapping[str, Group], destination_of: Callable[[Alert], Destination | None], now: int) -> None:
        """Continue with groups that another process recorded, by the key they are recorded under. The routes may have changed."""
        for key, group in recorded.items():
            self._groups[group.key] = group
            self._key_of |= dict.fromkeys(group.entries, group.key)
            if group.key != key:
                self._on_change(key, None)
                self._on_change(group.key, group)
        for group in recorded.values():
            for alert_id, entry in group.entries.items():
                destination = destination_of(entry.alert)
                if self._leads_elsewhere(alert_id, destination):
                    self._relocate(alert_id, destination, now)

    def _absorb_batch(self, batch: dict[str, list[tuple[Alert, int]]], now: int) -> None:
        for key, transitions in batch.items():
            group = absorb(self._groups[key], transitions, now, self._policy_of(self._groups[key].route))
            self.put(group)
            for alert, _ in transitions:
                if alert.alert_id not in group.entries:
                    self._key_of.pop(alert.alert_id, None)
        batch.clear()

    def _leads_elsewhere(self, alert_id: str, destination: Destination | None) -> bool:
        """Whether the alert is held otherwise than ``destination`` says. If it is not, a move that waited is called off."""
        key = self._key_of.get(alert_id)
        if key is None:
            return False
        entry = self._groups[key].entries.get(alert_id)  # None: it is only in the batch yet
        routed = entry is None or entry.routed
        if (destination is None and routed) or (destination is not None and (destination.key != key or not routed)):
            return True
        self._leaving.pop(alert_id, None)
        return False

    def _relocate(self, alert_id: str, destination: Destination | None, now: int) -> None:
        """Move the alert now, or once the pending message about it is settled."""
        key = self._key_of.get(alert_id)
        if key is None:
            return  # there was nothing to send about it
        if self._groups[key].holds_pending(alert_id):
            self._leaving[alert_id] = destination
        else:
            self._move(alert_id, destination, now)

    def _move(self, alert_id: str, destination: Destination | None, now: int) -> None:
        source = self._groups[self._key_of[alert_id]]
        entry = source.entries[alert_id]
        if destination is not None and destination.key == source.key:
            self.put(_with(source, msgspec.structs.replace(entry, routed=True)))
        elif destination is None and entry.notified is not None:
            self.put(_with(source, msgspec.structs.replace(entry, routed=False)))
        else:
            self.put(_without(source, alert_id))
            del self._key_of[alert_id]
            if destination is not None:
                self._place(msgspec.structs.replace(entry, routed=True, moved=True), source, destination, now)

    def _place(self, entry: Entry, source: Group, destination: Destination, now: int) -> None:
        """Put an entry that came from ``source`` into its group. In a new one, waits go on as they were in ``source``."""
        waits = change_of(entry, self._policy_of(destination.route)) is not None
        since = entry.changed_at if waits else source.opened_at if source.last_sent_at is None else source.last_sent_at
        group = self._open(destination, min(since, now))
        self._key_of[entry.alert.alert_id] = group.key
        self.put(_with(group, entry))

    def _open(self, destination: Destination, opened_at: int) -> Group:
        """The group of ``destination``; a new one where there is none, or one that never came to send anything."""
        group = self._groups.get(destination.key)
        if group is None or (not group.entries and group.pending is None and group.last_sent_at is None):
            group = Group(receiver=destination.receiver, route=destination.route, labels=destination.labels, opened_at=opened_at)
            self._groups[group.key] = group
        return group


def _with(group: Group, entry: Entry) -> Group:
    return msgspec.structs.replace(group, entries=group.entries | {entry.alert.alert_id: entry})


def _without(group: Group, alert_id: str) -> Group:
    return msgspec.structs.replace(group, entries={name: each for name, each in group.entries.items() if name != alert_id})
