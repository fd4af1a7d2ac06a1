"""Alerts about the data itself: Tidewatch falls behind, refuses too much, or gets nothing; an entity falls silent, a metric stands
still. Pure.

The one active notifier runs the checks, so each alert is sent once however many scoring processes there are, and also when all of
them are dead. The transitions go to the alerts topic, and are stored, routed, silenced and sent like any other. The state of the
checks is kept with that of the notifier.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from service.alerts.data_health.checks import LEAST_READ, NO_LONGER, DataFinding, check, recovery_of
from service.domain import Action, Alert, DataSnapshot, Severity, Status, alert_id
from service.errors import Stop
from service.settings import DataHealthSettings

RECORD = "data-health"


class CheckState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one finding. ``in_a_row``: snapshots in a row that were bad (while its alert is open: good); ``since``: the time
    of the first bad one. About an entity: the ``partition`` it was reported from, and the ``metrics`` that its alert names.

    ``in_a_row`` is stored as ``row``.
    """

    in_a_row: int = msgspec.field(name="row")
    since: int
    alert: Alert | None = None
    partition: int = -1
    metrics: tuple[str, ...] = ()


def step(
    state: CheckState | None, name: str, found: DataFinding, now: int, topic: str, settings: DataHealthSettings
) -> tuple[CheckState | None, Alert | None]:
    """One snapshot's effect on one finding: its new state, and the transition if there is one. It fires after ``fire_after`` bad
    snapshots in a row and resolves after as many good ones; when other metrics of the same entity are bad, it is updated."""
    if state is None or state.alert is None:
        if not found.bad:
            return None, None
        in_a_row, since = (1, now) if state is None else (state.in_a_row + 1, state.since)
        fired = _fired(name, found, since, now, topic) if in_a_row >= settings.fire_after else None
        in_a_row = 0 if fired else in_a_row
        return CheckState(in_a_row=in_a_row, since=since, alert=fired, partition=found.partition, metrics=found.metrics), fired
    if found.bad:
        updated = _next(state.alert, "updated", found.message, now) if found.metrics != state.metrics else None
        changed = msgspec.structs.replace(
            state, in_a_row=0, alert=updated or state.alert, partition=found.partition, metrics=found.metrics
        )
        return (state if changed == state else changed), updated
    if state.in_a_row + 1 < settings.fire_after:
        return msgspec.structs.replace(state, in_a_row=state.in_a_row + 1), None
    return None, _next(state.alert, "resolved", found.message, now, status=Status.RESOLVED, ended_at=now)


def _fired(name: str, found: DataFinding, since: int, now: int, topic: str) -> Alert:
    return Alert(
        alert_id=alert_id(topic, f"{RECORD}/{name}", since),
        seq=1,
        action="fired",
        reason=found.message,
        entity=found.entity or topic,
        status=Status.FIRING,
        severity=Severity.WARNING,
        peak_severity=Severity.WARNING,
        started_at=since if found.since is None else min(found.since, since),
        updated_at=now,
        fired_at=now,
        score=0.0,
        peak_score=0.0,
        p=1.0,
        peak_p=1.0,
        windows=0,
        labels={**found.labels, "check": _check_of(name)},  # so that routes and silences by rack or role match it
        topic=topic,
        partition=found.partition,
        kind="data_health",
    )


def _check_of(name: str) -> str:
    return name.partition("/")[0]


def _next(alert: Alert, action: Action, reason: str, now: int, **changes: object) -> Alert:
    facts = {"seq": alert.seq + 1, "action": action, "reason": reason, "updated_at": max(now, alert.updated_at)}
    return msgspec.structs.replace(alert, **(facts | changes))


class DataHealth:
    """The findings about one metrics topic and its entities. ``take_in`` each snapshot; ``take_changes`` gives the records and the
    transitions that follow from it."""

    def __init__(self, settings: DataHealthSettings, topic: str) -> None:
        self.settings = settings
        self._topic = topic
        self._states: dict[str, CheckState] = {}
        self._changed: set[str] = set()
        self._caused: list[Alert] = []
        self._read, self._rejected = 0, Counter[str]()  # since there were last enough for a share
        self._taken, self._late = 0, 0

    def take_in(self, seen: DataSnapshot, now: int) -> None:
        """Check one snapshot, taken at ``now`` (wall-clock ms). A check that has no bound any more counts as good."""
        self._read += seen.read
        self._rejected.update(seen.rejected)
        self._taken, self._late = self._taken + seen.taken, self._late + seen.late
        counted = {"read": self._read, "rejected": dict(self._rejected), "taken": self._taken, "late": self._late}
        seen = msgspec.structs.replace(seen, **counted)
        found = check(seen, self.settings, now)
        if self._read >= LEAST_READ:
            self._read, self._rejected = 0, Counter()
        if self._taken >= LEAST_READ:
            self._taken = self._late = 0
        for name, state in self._states.items():
            if _check_of(name) not in self.settings.watched:
                found[name] = DataFinding(bad=False, message=NO_LONGER)
            elif name not in found and state.partition >= 0:
                well = recovery_of(name, state.partition, seen, self.settings)
                found |= {} if well is None else {name: well}
        for name, one in found.items():
            before = self._states.get(name)
            after, caused = step(before, name, one, now, self._topic, self.settings)
            self._put(name, before, after, caused)

    def acknowledge(self, alert_id: str, author: str, note: str, now: int) -> None:
        """Acknowledge an alert; nothing happens if it is not about the data, or is acknowledged already."""
        for name, state in self._states.items():
            alert = state.alert
            if alert is not None and alert.alert_id == alert_id and alert.acknowledged_by is None:
                reason = f"acknowledged by {author}" + (f": {note}" if note else "")
                taken = _next(alert, "acknowledged", reason, now, acknowledged_by=author)
                self._put(name, state, msgspec.structs.replace(state, alert=taken), taken)
                return

    def take_changes(self) -> tuple[dict[bytes, bytes | None], list[Alert]]:
        """The records of what changed since this was last asked (None deletes), and the transitions caused."""
        changed, caused = self._changed, self._caused
        self._changed, self._caused = set(), []
        records: dict[bytes, bytes | None] = {}
        for name in changed:
            state = self._states.get(name)
            records[_key(self._topic, name)] = None if state is None else msgspec.msgpack.encode(state)
        return records, caused

    def restore(self, records: Mapping[bytes, bytes]) -> None:
        """Continue from what another notifier recorded. Raises ``Stop`` when it cannot be read."""
        self.forget()
        try:
            for key, value in records.items():
                match msgspec.json.decode(key, type=list[str]):
                    case [kind, topic, name] if (kind, topic) == (RECORD, self._topic):
                        self._states[name] = msgspec.msgpack.decode(value, type=CheckState)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Stop(
                f"The notifier's state of the data-health checks cannot be read: {error}.",
                hint="Delete the topic kafka.topics.notify_state to begin without it (alerts that still fire are then sent again).",
            ) from error

    def forget(self) -> None:
        """Drop all state, because another notifier runs the checks from now on."""
        self._read, self._rejected = 0, Counter[str]()
        self._taken, self._late = 0, 0
        self._states, self._changed, self._caused = {}, set(), []

    def open_alerts(self) -> Sequence[Alert]:
        """The newest state of every open alert."""
        return [state.alert for state in self._states.values() if state.alert is not None]

    def _put(self, name: str, before: CheckState | None, after: CheckState | None, caused: Alert | None) -> None:
        if after is None:
            self._states.pop(name, None)
        else:
            self._states[name] = after
        if after != before:
            self._changed.add(name)
        if caused is not None:
            self._caused.append(caused)


def _key(topic: str, name: str) -> bytes:
    return msgspec.json.encode([RECORD, topic, name])
