"""When a group is due, and the message it then makes. Pure; all times are wall-clock milliseconds, passed in."""

from __future__ import annotations

import hashlib

import msgspec

from service.alerts.control.mutes import MuteReason
from service.alerts.notify.grouping import Entry, Group, Notification, change_of
from service.alerts.notify.routing import Policy
from service.domain import Severity, Status

REMINDER = "still firing"


class SendDecision(msgspec.Struct, frozen=True):
    """Whether a group is due, why, and when to look again if not (``None``: only when something changes)."""

    send: bool
    reason: str
    at: int | None = None


def decide(group: Group, now: int, policy: Policy, muted: MuteReason) -> SendDecision:
    """Whether this group is due now.

    A change waits ``group_wait`` in a new group and ``group_interval`` in one that was sent before. A critical alert that this
    group has not sent waits only ``group_wait`` in either; the wait doubles after each message hurried like this, so that a
    storm of critical alerts does not become a storm of messages.
    """
    changed = [(entry, why) for entry in group.entries.values() if (why := change_of(entry, policy)) is not None]
    actionable = [(entry, why) for entry, why in changed if muted(entry.alert) is None]
    if actionable:
        at = min(_due_at(group, entry, policy, now) for entry, _ in actionable)
        reason = ", ".join(sorted({why for _, why in actionable}))
        return SendDecision(now >= at, reason, at)
    firing = [entry for entry in group.entries.values() if _wants_reminder(entry) and muted(entry.alert) is None]
    if firing:
        at = (group.opened_at if group.last_sent_at is None else group.last_sent_at) + policy.repeat_interval
        return SendDecision(now >= at, REMINDER, at)
    return SendDecision(False, "everything new is muted" if changed else "nothing new")


def notification(group: Group, reason: str, policy: Policy, muted: MuteReason, now: int = 0) -> Notification:
    """The message of a group that is due at ``now``: everything firing, and what resolved since the last message; nothing muted."""
    entries = [
        entry
        for entry in group.entries.values()
        if (entry.notified_firing or change_of(entry, policy) is not None) and muted(entry.alert) is None
    ]
    has_changes = any(change_of(entry, policy) is not None for entry in entries)
    identity = msgspec.json.encode(
        [
            group.key,
            sorted((entry.alert.alert_id, entry.change_seq) for entry in entries),
            0 if has_changes else [group.messages, group.opened_at],  # each reminder is a message of its own
        ]
    )
    key = hashlib.sha256(identity).hexdigest()[:32]
    return Notification(group.key, group.receiver, group.labels, entries, reason, key, due_at=now)


def _due_at(group: Group, entry: Entry, policy: Policy, now: int) -> int:
    if (group.opened_at if group.last_sent_at is None else group.last_sent_at) > now:
        return now  # the clock was set back: do not wait until it is that late again
    if group.last_sent_at is None:
        return group.opened_at + policy.group_wait
    changed_at = entry.changed_at if entry.changed_at <= now else group.last_sent_at
    if (
        (entry.notified is None or entry.moved)
        and entry.alert.severity is Severity.CRITICAL
        and entry.alert.status is Status.FIRING
    ):
        quiet = changed_at >= group.last_sent_at + policy.group_interval
        wait = policy.group_wait << (0 if quiet else min(group.hurried, 20))
        return max(changed_at, group.last_sent_at) + max(policy.group_wait, min(wait, policy.group_interval))
    return max(group.last_sent_at + policy.group_interval, changed_at)


def _wants_reminder(entry: Entry) -> bool:
    return entry.notified_firing and entry.alert.status is Status.FIRING and entry.alert.acknowledged_by is None
