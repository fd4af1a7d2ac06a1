"""Why an alert is muted: silenced, in maintenance, inhibited by a worse one, or like one marked as a false alarm. Pure.

Inhibition follows Alertmanager: a firing alert that matches ``source`` mutes those that match ``target`` and agree with it on
``equal``; an alert that matches both sides of a rule is never muted by another that does, so two cannot mute each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from datetime import UTC, datetime
from fnmatch import fnmatchcase

import msgspec

from service.alerts.control.maintenance import MaintenanceWindow
from service.alerts.control.matchers import attribute, matches
from service.domain import Alert, Status
from service.settings import InhibitRuleSettings, NotificationSettings

MuteReason = Callable[[Alert], str | None]  # why an alert is muted, or None


class Silence(msgspec.Struct, frozen=True):
    """Mutes what matches from ``starts_at`` until before ``ends_at`` (wall-clock ms). ``fixed``: it stands in the settings, and no
    command ends it."""

    id: str
    match: dict[str, str]
    starts_at: int
    ends_at: int
    author: str
    comment: str
    fixed: bool = False


class FalseMark(msgspec.Struct, frozen=True):
    """Mutes alerts of ``entity`` (a glob) that rest on these metrics, because an operator marked ``alert_id`` as false."""

    id: str
    alert_id: str
    entity: str
    metrics: tuple[str, ...]
    author: str
    note: str = ""

    def is_like(self, entity: str, metrics: Sequence[str]) -> bool:
        """True when the entity matches, and the alert's leading metrics, as many as the mark names, are all named by it."""
        leading = metrics[: len(self.metrics)]
        return bool(leading) and set(leading) <= set(self.metrics) and fnmatchcase(entity, self.entity)


class Mutes:
    """All reasons to mute an alert. ``observe`` each transition, so that inhibition knows what fires."""

    def __init__(self, settings: NotificationSettings) -> None:
        self._rules = settings.inhibit_rules
        self._maintenance = [MaintenanceWindow(each) for each in settings.maintenance]
        self._fixed = fixed_silences(settings)
        self.silences: dict[str, Silence] = {}
        self.false_marks: dict[str, FalseMark] = {}
        self._sources = [_Sources() for _ in self._rules]

    @property
    def active(self) -> bool:
        """False while nothing could mute any alert, so that ``reason`` need not be asked."""
        return bool(self._fixed or self._rules or self._maintenance or self.silences or self.false_marks)

    def observe(self, alert: Alert) -> None:
        """Note whether an alert fires, by its newest transition."""
        for rule, sources in zip(self._rules, self._sources, strict=True):
            firing = alert.status is Status.FIRING and matches(alert, rule.source)
            sources.put(alert.alert_id, equal_values(alert, rule) if firing else None)

    def reason(self, alert: Alert, now: int) -> str | None:
        """Why ``alert`` is muted at ``now`` (ms), or ``None``."""
        return (
            silenced(alert, self._fixed, now)
            or silenced(alert, list(self.silences.values()), now)
            or in_maintenance(alert, self._maintenance, now)
            or marked_false(alert, list(self.false_marks.values()))
            or self._inhibited(alert)
        )

    def forget(self) -> None:
        """Drop all firing alerts; silences and marks stay."""
        self._sources = [_Sources() for _ in self._rules]

    def _inhibited(self, alert: Alert) -> str | None:
        for rule, sources in zip(self._rules, self._sources, strict=True):
            if not matches(alert, rule.target) or matches(alert, rule.source):
                continue
            if others := sources.at(equal_values(alert, rule)):
                return f"inhibited by {min(others)}"
        return None


class _Sources:
    """The firing alerts that match the source of one rule, by the values of its ``equal`` labels when they were last seen."""

    def __init__(self) -> None:
        self._values: dict[str, tuple[str, ...]] = {}  # by alert: its labels may change while it fires
        self._alerts: dict[tuple[str, ...], set[str]] = {}

    def put(self, alert_id: str, values: tuple[str, ...] | None) -> None:
        """The alert counts under these values from now on; None: it is no source."""
        before = self._values.pop(alert_id, None)
        if before is not None:
            self._alerts[before].discard(alert_id)
            if not self._alerts[before]:
                del self._alerts[before]
        if values is not None:
            self._values[alert_id] = values
            self._alerts.setdefault(values, set()).add(alert_id)

    def at(self, values: tuple[str, ...]) -> Set[str]:
        """The alerts that count under these values."""
        return self._alerts.get(values, frozenset())


def fixed_silences(settings: NotificationSettings) -> list[Silence]:
    """The silences that stand in the settings, as ``config-1``, ``config-2``, …"""
    return [
        Silence(f"config-{n}", dict(s.match), to_ms(s.starts), to_ms(s.ends), s.author, s.comment, fixed=True)
        for n, s in enumerate(settings.silences, 1)
    ]


def silenced(alert: Alert, silences: Sequence[Silence], now: int) -> str | None:
    """The silence in force for this alert, as text."""
    for silence in silences:
        if silence.starts_at <= now < silence.ends_at and matches(alert, silence.match):
            return f"silenced by {silence.author} ({silence.id}): {silence.comment}"
    return None


def in_maintenance(alert: Alert, windows: Sequence[MaintenanceWindow], now: int) -> str | None:
    """The open maintenance window that this alert matches, as text."""
    for window in windows:
        rule = window.settings
        if window.is_open(now) and matches(alert, rule.match):
            return f"in maintenance ({rule.cron} {rule.timezone}): {rule.comment}"
    return None


def marked_false(alert: Alert, marks: Sequence[FalseMark]) -> str | None:
    """The false-alarm mark that this alert is like, as text."""
    names = [metric.name for metric in alert.metrics]
    for mark in marks:
        if mark.is_like(alert.entity, names):
            return f"like {mark.alert_id[:8]}, marked false by {mark.author}"
    return None


def equal_values(alert: Alert, rule: InhibitRuleSettings) -> tuple[str, ...]:
    """What source and target of a rule must agree on."""
    return tuple(attribute(alert, name) for name in rule.equal)


def to_ms(moment: datetime) -> int:
    """Milliseconds since the epoch; a time without a zone is UTC."""
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
