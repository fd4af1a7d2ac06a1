"""Who is told what, and when: pure stages, each returning its reason. The order is route → mute → gather → decide → told.

The conventions are Alertmanager's (grouping, group wait and interval, repeat, resolved): https://prometheus.io/docs/alerting.
One thing differs on purpose: an alert that fired and was over before its group was due is still told, once, as over.
All times here are wall-clock milliseconds, passed in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import msgspec

from service.alerts.control.matchers import attribute, matches
from service.alerts.control.mutes import MuteReason
from service.alerts.topics.deliveries import Delivery, DeliveryState
from service.domain import Alert, Severity, Status
from service.settings import RouteSettings


class Notified(msgspec.Struct, frozen=True):
    """What a receiver was last told about an alert."""

    status: Status
    severity: Severity


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One alert in a group. ``news_seq``: the transition worth telling (0: none yet); ``news_at``: when it came;
    ``offset``: where the oldest untold news lay in the alerts topic; ``hushed``: muted when last looked at."""

    alert: Alert
    news_seq: int = 0
    news_at: int = 0
    offset: int = -1
    told: Notified | None = None
    hushed: bool = False


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """What one receiver is told together. ``repeats``: messages sent so far; ``hurried``: those of them
    that came soon one after the other; ``owed``: the message being
    sent, kept so that it goes out once more as it was, under the same key, should the notifier die before it knows."""

    receiver: str
    route: int
    labels: dict[str, str]
    opened_at: int
    entries: dict[str, Entry] = {}
    last_sent_at: int | None = None
    repeats: int = 0
    hurried: int = 0
    owed: Notification | None = None

    @property
    def key(self) -> str:
        """Identity of the group."""
        return group_key(self.receiver, self.route, self.labels)


class Policy(msgspec.Struct, frozen=True):
    """How one receiver's groups of one route are timed and filtered (milliseconds)."""

    group_wait: int
    group_interval: int
    repeat_interval: int
    min_severity: Severity = Severity.INFO
    send_resolved: bool = True


class SendDecision(msgspec.Struct, frozen=True):
    """Whether a group is due, why, and when to look again if not (``None``: only when something changes)."""

    send: bool
    reason: str
    at: int | None = None


class Notification(msgspec.Struct, frozen=True):
    """One message owed: frozen when it became due, so that every try sends the same under the same key. ``attempts``: tries that
    have failed so far, the last of them because of ``problem``."""

    group_key: str
    receiver: str
    labels: dict[str, str]
    entries: Sequence[Entry]
    reason: str
    key: str
    owed_at: int = 0
    attempts: int = 0
    problem: str | None = None

    @property
    def alerts(self) -> list[Alert]:
        """The alerts told about."""
        return [entry.alert for entry in self.entries]


# --- route -----------------------------------------------------------------------------------------------------------


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


# --- gather ----------------------------------------------------------------------------------------------------------


def group_labels(alert: Alert, group_by: Sequence[str]) -> dict[str, str]:
    """The values an alert is grouped by."""
    return {name: attribute(alert, name) for name in group_by}


def group_key(receiver: str, route_number: int, labels: Mapping[str, str]) -> str:
    """Identity of a group, as text."""
    return msgspec.json.encode([receiver, route_number, dict(sorted(labels.items()))]).decode()


def news(alert: Alert, told: Notified | None, policy: Policy) -> str | None:
    """Why this state of an alert is worth telling someone who was last told ``told``, or ``None``."""
    if alert.status is Status.PENDING or alert.fired_at is None:
        return None
    if told is None:
        if alert.peak_severity.rank < policy.min_severity.rank:
            return None
        return "fired" if alert.status is Status.FIRING else "fired and already over"
    if alert.status is Status.RESOLVED:
        return "resolved" if policy.send_resolved and told.status is Status.FIRING else None
    return "raised" if alert.severity.rank > told.severity.rank else None


def absorb(group: Group, arrived: Sequence[tuple[Alert, int]], now: int, policy: Policy) -> Group:
    """The group after these (transition, offset) pairs. An older state than the one held is ignored."""
    entries = dict(group.entries)
    for alert, offset in arrived:
        entry = entries.get(alert.alert_id)
        if entry is not None and alert.seq <= entry.alert.seq:
            continue
        before = news(entry.alert, entry.told, policy) if entry is not None else None
        entry = Entry(alert=alert) if entry is None else msgspec.structs.replace(entry, alert=alert)
        why = news(alert, entry.told, policy)
        if why is not None and why != before:
            oldest = offset if before is None else entry.offset
            entry = msgspec.structs.replace(entry, news_seq=alert.seq, news_at=now, offset=oldest)
        # nobody wants to hear that what was muted is over, once it no longer is
        never_heard = entry.hushed and entry.told is None
        if (alert.status is Status.RESOLVED and (why is None or never_heard)) or (why is None and entry.told is None):
            entries.pop(alert.alert_id, None)  # nothing to tell about it, now or later
        else:
            entries[alert.alert_id] = entry
    return msgspec.structs.replace(group, entries=entries)


def hush(group: Group, muted: MuteReason) -> Group:
    """The group with each untold entry marked by whether it is muted now."""
    changed = {
        key: msgspec.structs.replace(entry, hushed=not entry.hushed)
        for key, entry in group.entries.items()
        if entry.told is None and (muted(entry.alert) is not None) is not entry.hushed and entry.alert.status is Status.FIRING
    }
    return msgspec.structs.replace(group, entries=group.entries | changed) if changed else group


# --- decide ----------------------------------------------------------------------------------------------------------


def decide(group: Group, now: int, policy: Policy, muted: MuteReason) -> SendDecision:
    """Whether this group is due now. New news waits ``group_wait`` in a fresh group and ``group_interval`` in one already
    told; a critical alert nobody was told about waits only ``group_wait`` in either, twice as long after each message that was
    hurried like this, so that a storm of them does not."""
    fresh = [(entry, why) for entry in group.entries.values() if (why := news(entry.alert, entry.told, policy)) is not None]
    audible = [(entry, why) for entry, why in fresh if muted(entry.alert) is None]
    if audible:
        at = min(_due_at(group, entry, policy, now) for entry, _ in audible)
        reason = ", ".join(sorted({why for _, why in audible}))
        return SendDecision(now >= at, reason, at)
    standing = [e for e in group.entries.values() if e.told is not None and _wants_repeat(e) and muted(e.alert) is None]
    if standing and group.last_sent_at is not None:
        at = group.last_sent_at + policy.repeat_interval
        return SendDecision(now >= at, "still firing", at)
    return SendDecision(False, "everything new is muted" if fresh else "nothing new")


def _due_at(group: Group, entry: Entry, policy: Policy, now: int) -> int:
    if (group.opened_at if group.last_sent_at is None else group.last_sent_at) > now:
        return now  # the clock was set back since; nobody is made to wait until it is that late again
    if group.last_sent_at is None:
        return group.opened_at + policy.group_wait
    news_at = entry.news_at if entry.news_at <= now else group.last_sent_at
    if entry.told is None and entry.alert.severity is Severity.CRITICAL and entry.alert.status is Status.FIRING:
        quiet = news_at >= group.last_sent_at + policy.group_interval
        wait = policy.group_wait << (0 if quiet else min(group.hurried, 20))
        return max(news_at, group.last_sent_at) + max(policy.group_wait, min(wait, policy.group_interval))
    return max(group.last_sent_at + policy.group_interval, news_at)


def _wants_repeat(entry: Entry) -> bool:
    return entry.alert.status is Status.FIRING and entry.alert.acknowledged_by is None


def notification(group: Group, reason: str, policy: Policy, muted: MuteReason) -> Notification:
    """The message a due group makes: everything firing, and what resolved since the last message; nothing muted."""
    told = [
        entry
        for entry in group.entries.values()
        if (entry.told is not None or news(entry.alert, entry.told, policy) is not None) and muted(entry.alert) is None
    ]
    has_news = any(news(entry.alert, entry.told, policy) is not None for entry in told)
    identity = msgspec.json.encode(
        [group.key, sorted((entry.alert.alert_id, entry.news_seq) for entry in told), 0 if has_news else group.repeats]
    )
    return Notification(group.key, group.receiver, group.labels, told, reason, hashlib.sha256(identity).hexdigest()[:32])


# --- told ------------------------------------------------------------------------------------------------------------


def after(group: Group, sent: Notification, now: int, policy: Policy) -> Group:
    """The group once ``sent`` was delivered (or given up): what was told is remembered, what is over and told is dropped.

    News that came in while the message was on its way stays news.
    """
    entries = dict(group.entries)
    for told in sent.entries:
        entry = entries.get(told.alert.alert_id)
        if entry is None:
            continue
        heard = Notified(told.alert.status, told.alert.severity)
        if entry.told != heard or entry.offset != -1:  # a reminder leaves it as it is, and nothing to record
            entry = msgspec.structs.replace(entry, told=heard, offset=-1)
        if told.alert.status is Status.RESOLVED:
            del entries[told.alert.alert_id]
        else:
            entries[told.alert.alert_id] = entry
    soon = group.last_sent_at is not None and now < group.last_sent_at + 2 * policy.group_interval
    return msgspec.structs.replace(
        group,
        entries=entries,
        last_sent_at=now,
        repeats=group.repeats + 1,
        hurried=group.hurried + 1 if soon else 0,
        owed=None,
    )


def spent(group: Group, now: int, policy: Policy) -> bool:
    """True when an empty group may be forgotten: kept for one interval so that flapping does not restart its wait."""
    return (
        not group.entries
        and group.owed is None
        and (group.last_sent_at is None or now >= group.last_sent_at + policy.group_interval)
    )


def owed_offset(group: Group, policy: Policy, muted: MuteReason) -> int | None:
    """Offset of the oldest transition whose news this receiver has not been told, or ``None``."""
    owed = [
        entry.offset
        for entry in group.entries.values()
        if entry.offset >= 0 and news(entry.alert, entry.told, policy) is not None and muted(entry.alert) is None
    ]
    return min(owed, default=None)


def delivery_of(message: Notification, state: DeliveryState, at: int) -> Delivery:
    """The message as it stands."""
    return Delivery(
        key=message.key,
        receiver=message.receiver,
        state=state,
        reason=message.reason,
        labels=message.labels,
        alert_ids=[entry.alert.alert_id for entry in message.entries],
        owed_at=message.owed_at or at,
        at=at,
        attempts=message.attempts,
        problem=message.problem,
    )
