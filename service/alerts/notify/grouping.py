"""What a receiver is notified of, and how that changes: groups of alerts as immutable values. Pure.

The conventions are Alertmanager's (grouping, group wait and interval, repeat, resolved): https://prometheus.io/docs/alerting.
One thing differs on purpose: an alert that fired and resolved before its group was due is still sent, once, as resolved.
All times here are wall-clock milliseconds, passed in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from service.alerts.control.mutes import MuteReason
from service.alerts.messages.circumstances import Earlier
from service.alerts.notify.routing import Policy, group_key
from service.alerts.notify.surroundings import Surroundings
from service.alerts.topics.deliveries import Delivery, DeliveryState
from service.domain import Alert, Severity, Status


class Notified(msgspec.Struct, frozen=True):
    """The state of an alert that a receiver was last sent."""

    status: Status
    severity: Severity
    also: tuple[str, ...] = ()  # metrics that joined while the alert was open


class Found(msgspec.Struct, frozen=True):
    """What was found around one alert when a message about it became due. It is recorded, so that every try says the same."""

    surroundings: Surroundings = Surroundings()
    earlier: Earlier | None = None
    earlier_count: int = 0


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One alert in a group.

    ``change_seq``: the newest transition worth sending (0: none yet); ``changed_at``: when it came. ``offset``: position in the
    alerts topic of the oldest change that was not sent. ``notified``: what the receiver knows (``None``: nothing).
    ``muted``: the mute state at the last check. ``routed``: false when the routes no longer lead to this receiver; then only
    that the alert resolved is worth sending. ``moved``: it came from another group, and this one has not sent it yet.
    ``unconfirmed``: it was recorded by a version that could keep an alert after it resolved, so it counts as firing only once
    its next transition says so.
    """

    alert: Alert
    change_seq: int = msgspec.field(default=0, name="news_seq")
    changed_at: int = msgspec.field(default=0, name="news_at")
    offset: int = -1
    notified: Notified | None = msgspec.field(default=None, name="told")
    muted: bool = msgspec.field(default=False, name="hushed")
    routed: bool = True
    moved: bool = False
    unconfirmed: bool = False

    @property
    def notified_firing(self) -> bool:
        """True when the receiver was sent this alert as firing and is still to be sent what becomes of it."""
        return self.notified is not None and self.routed and not self.unconfirmed


class Notification(msgspec.Struct, frozen=True):
    """One message, frozen when it became due: every try sends the same content under the same key. ``attempts``: tries that
    have failed so far, the last of them because of ``problem``. ``found``: by alert id, for those that a message shows first."""

    group_key: str
    receiver: str
    labels: dict[str, str]
    entries: Sequence[Entry]
    reason: str
    key: str
    due_at: int = msgspec.field(default=0, name="owed_at")
    attempts: int = 0
    problem: str | None = None
    found: Mapping[str, Found] = {}

    @property
    def alerts(self) -> list[Alert]:
        """The alerts in the message."""
        return [entry.alert for entry in self.entries]


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Alerts that one receiver is notified of together.

    ``messages``: sent so far; ``hurried``: how many of the newest came in quick succession. ``pending``: the message that is due
    and not settled. It is recorded, so that a notifier that takes over sends the same message under the same key.
    """

    receiver: str
    route: str
    labels: dict[str, str]
    opened_at: int
    entries: dict[str, Entry] = {}
    last_sent_at: int | None = None
    messages: int = msgspec.field(default=0, name="repeats")
    hurried: int = 0
    pending: Notification | None = msgspec.field(default=None, name="owed")

    @property
    def key(self) -> str:
        """Identity of the group."""
        return group_key(self.receiver, self.route, self.labels)

    def holds_pending(self, alert_id: str) -> bool:
        """True while a message about this alert is pending."""
        return self.pending is not None and any(entry.alert.alert_id == alert_id for entry in self.pending.entries)


def change_of(entry: Entry, policy: Policy) -> str | None:
    """Why the state of this alert is worth sending to a receiver that knows ``entry.notified``, or ``None``."""
    alert, notified = entry.alert, entry.notified
    if alert.status is Status.PENDING or alert.fired_at is None:
        return None
    if notified is None:
        if not entry.routed or alert.peak_severity.rank < policy.min_severity.rank:
            return None
        return "fired" if alert.status is Status.FIRING else "fired and already over"
    if alert.status is Status.RESOLVED:
        return "resolved" if policy.send_resolved and notified.status is Status.FIRING else None
    if not entry.routed:
        return None
    if alert.severity.rank > notified.severity.rank:
        return "raised"
    return "widened" if joined(alert) - set(notified.also) else None


def joined(alert: Alert) -> set[str]:
    """The metrics that became unusual while the alert was open."""
    return {metric.name for metric in alert.also}


def absorb(group: Group, arrived: Sequence[tuple[Alert, int]], now: int, policy: Policy) -> Group:
    """The group after these (transition, offset) pairs. A state older than the one held is ignored.

    Before its first message a group counts its wait from when it had something to send.
    """
    entries = dict(group.entries)
    waits = group.last_sent_at is None and any(change_of(entry, policy) is not None for entry in entries.values())
    opened_at = group.opened_at if waits or group.last_sent_at is not None else now
    for alert, offset in arrived:
        entry = entries.get(alert.alert_id)
        if entry is not None and alert.seq <= entry.alert.seq:
            continue
        before = change_of(entry, policy) if entry is not None else None
        entry = Entry(alert=alert) if entry is None else msgspec.structs.replace(entry, alert=alert, unconfirmed=False)
        why = change_of(entry, policy)
        if why is not None and why != before:
            oldest = offset if before is None else entry.offset
            entry = msgspec.structs.replace(entry, change_seq=alert.seq, changed_at=now, offset=oldest)
        # An alert that was muted for its whole life is not sent as resolved when the mute ends.
        unnoticed = entry.muted and entry.notified is None
        if (alert.status is Status.RESOLVED and (why is None or unnoticed)) or (why is None and entry.notified is None):
            entries.pop(alert.alert_id, None)  # nothing to send about it, now or later
        else:
            entries[alert.alert_id] = entry
    return msgspec.structs.replace(group, entries=entries, opened_at=opened_at)


def mark_muted(group: Group, muted: MuteReason) -> Group:
    """The group with each firing alert that was not sent yet marked by whether it is muted now."""
    changed = {
        alert_id: msgspec.structs.replace(entry, muted=not entry.muted)
        for alert_id, entry in group.entries.items()
        if entry.notified is None and entry.alert.status is Status.FIRING and (muted(entry.alert) is not None) is not entry.muted
    }
    return msgspec.structs.replace(group, entries=group.entries | changed) if changed else group


def settled(group: Group, message: Notification, now: int, policy: Policy) -> Group:
    """The group once ``message`` was sent, refused or given up: its alerts are notified, those resolved in it are dropped.

    A change that came in while the message was on its way is still to be sent.
    """
    entries = dict(group.entries)
    for sent in message.entries:
        entry = entries.get(sent.alert.alert_id)
        if entry is None:
            continue
        known = Notified(sent.alert.status, sent.alert.severity, tuple(sorted(joined(sent.alert))))
        if (
            entry.notified != known or entry.offset != -1 or entry.moved
        ):  # a reminder changes nothing, so nothing is recorded for it
            entry = msgspec.structs.replace(entry, notified=known, offset=-1, moved=False)
        if sent.alert.status is Status.RESOLVED:
            del entries[sent.alert.alert_id]
        else:
            entries[sent.alert.alert_id] = entry
    soon = group.last_sent_at is not None and now < group.last_sent_at + 2 * policy.group_interval
    return msgspec.structs.replace(
        group,
        entries=entries,
        last_sent_at=now,
        messages=group.messages + 1,
        hurried=group.hurried + 1 if soon else 0,
        pending=None,
    )


def spent(group: Group, now: int, policy: Policy) -> bool:
    """True when an empty group may be dropped: it is kept for one interval, so that a flapping alert does not open a new one."""
    return (
        not group.entries
        and group.pending is None
        and (group.last_sent_at is None or now >= group.last_sent_at + policy.group_interval)
    )


def unsent_offset(group: Group, policy: Policy, muted: MuteReason) -> int | None:
    """Offset of the oldest transition that is worth sending and was not sent, or ``None``."""
    unsent = [
        entry.offset
        for entry in group.entries.values()
        if entry.offset >= 0 and change_of(entry, policy) is not None and muted(entry.alert) is None
    ]
    return min(unsent, default=None)


def delivery_of(message: Notification, state: DeliveryState, at: int) -> Delivery:
    """The record of how the message fares, as of ``at``."""
    return Delivery(
        key=message.key,
        receiver=message.receiver,
        state=state,
        reason=message.reason,
        labels=message.labels,
        alert_ids=[entry.alert.alert_id for entry in message.entries],
        owed_at=message.due_at or at,
        at=at,
        attempts=message.attempts,
        problem=message.problem,
    )
