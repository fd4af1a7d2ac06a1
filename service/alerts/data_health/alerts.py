"""Alerts about the data itself: Tidewatch falls behind, refuses too much, or gets nothing; an entity falls silent, a metric stands
still. Pure but for who looks.

The one active notifier watches, so each is told once however many workers there are, and also when all of them are dead. Its
transitions go to the alerts topic like any other, and are stored, routed, silenced and told from there. What it remembers lies
with what the notifier remembers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from service.alerts.data_health.checks import LEAST_READ, NO_LONGER, DataFinding, check, of_entity
from service.domain import Action, Alert, DataSnapshot, Severity, Status, alert_id
from service.errors import Stop
from service.settings import DataHealthSettings

RECORD = "data-health"


class CheckState(msgspec.Struct, frozen=True, kw_only=True):
    """What must be remembered of one finding: looks in a row that found it bad (or, while its alert is open, good), when the first
    bad one was, the alert; and, about an entity, the partition it was reported from and its metrics that were told."""

    row: int
    since: int
    alert: Alert | None = None
    partition: int = -1
    metrics: tuple[str, ...] = ()


def step(
    memory: CheckState | None, name: str, found: DataFinding, now: int, topic: str, settings: DataHealthSettings
) -> tuple[CheckState | None, Alert | None]:
    """One look's effect on one finding: what to remember, and the transition if there is one. It fires after ``fire_after`` bad
    looks in a row and resolves after as many good ones; other metrics of the same entity are an update."""
    if memory is None or memory.alert is None:
        if not found.bad:
            return None, None
        row, since = (1, now) if memory is None else (memory.row + 1, memory.since)
        fired = _fired(name, found, since, now, topic) if row >= settings.fire_after else None
        row = 0 if fired else row
        return CheckState(row=row, since=since, alert=fired, partition=found.partition, metrics=found.metrics), fired
    if found.bad:
        told = _next(memory.alert, "updated", found.words, now) if found.metrics != memory.metrics else None
        changed = msgspec.structs.replace(
            memory, row=0, alert=told or memory.alert, partition=found.partition, metrics=found.metrics
        )
        return (memory if changed == memory else changed), told
    if memory.row + 1 < settings.fire_after:
        return msgspec.structs.replace(memory, row=memory.row + 1), None
    return None, _next(memory.alert, "resolved", found.words, now, status=Status.RESOLVED, ended_at=now)


def _fired(name: str, found: DataFinding, since: int, now: int, topic: str) -> Alert:
    return Alert(
        alert_id=alert_id(topic, f"{RECORD}/{name}", since),
        seq=1,
        action="fired",
        reason=found.words,
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
        labels={"check": _check_of(name)},
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
    """The findings about one metrics topic and its entities. ``take_in`` a look; ``take_changes`` gives what is to be recorded
    and emitted."""

    def __init__(self, settings: DataHealthSettings, topic: str) -> None:
        self.settings = settings
        self._topic = topic
        self._memories: dict[str, CheckState] = {}
        self._changed: set[str] = set()
        self._caused: list[Alert] = []
        self._read, self._rejected = 0, Counter[str]()  # since there was last enough to speak of a share
        self._taken, self._late = 0, 0

    def take_in(self, seen: DataSnapshot, now: int) -> None:
        """One look at the data, at ``now`` (wall-clock ms). A check that has lost its bound counts as good."""
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
        for name, memory in self._memories.items():
            if _check_of(name) not in self.settings.watched:
                found[name] = DataFinding(bad=False, words=NO_LONGER)
            elif name not in found and memory.partition >= 0:
                well = of_entity(name, memory.partition, seen, self.settings)
                found |= {} if well is None else {name: well}
        for name, one in found.items():
            before = self._memories.get(name)
            after, caused = step(before, name, one, now, self._topic, self.settings)
            self._put(name, before, after, caused)

    def acknowledge(self, alert_id: str, author: str, note: str, now: int) -> None:
        """Somebody has taken an alert, which may be none of ours, or taken already."""
        for name, memory in self._memories.items():
            alert = memory.alert
            if alert is not None and alert.alert_id == alert_id and alert.acknowledged_by is None:
                reason = f"acknowledged by {author}" + (f": {note}" if note else "")
                taken = _next(alert, "acknowledged", reason, now, acknowledged_by=author)
                self._put(name, memory, msgspec.structs.replace(memory, alert=taken), taken)
                return

    def take_changes(self) -> tuple[dict[bytes, bytes | None], list[Alert]]:
        """The records of what changed since this was last asked (None deletes), and the transitions caused."""
        changed, caused = self._changed, self._caused
        self._changed, self._caused = set(), []
        records: dict[bytes, bytes | None] = {}
        for name in changed:
            memory = self._memories.get(name)
            records[_key(self._topic, name)] = None if memory is None else msgspec.msgpack.encode(memory)
        return records, caused

    def restore(self, records: Mapping[bytes, bytes]) -> None:
        """Go on from what another notifier recorded. Raises ``Stop`` when it cannot be read."""
        self.forget()
        try:
            for key, value in records.items():
                match msgspec.json.decode(key, type=list[str]):
                    case [kind, topic, name] if (kind, topic) == (RECORD, self._topic):
                        self._memories[name] = msgspec.msgpack.decode(value, type=CheckState)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Stop(
                f"What the notifier remembered of the data's health cannot be read: {error}.",
                hint="Delete the topic kafka.topics.notify_state to begin without memory (alerts still firing are told again).",
            ) from error

    def forget(self) -> None:
        """Another notifier watches."""
        self._read, self._rejected = 0, Counter[str]()
        self._taken, self._late = 0, 0
        self._memories, self._changed, self._caused = {}, set(), []

    def open_alerts(self) -> Sequence[Alert]:
        """The newest state of every open alert."""
        return [memory.alert for memory in self._memories.values() if memory.alert is not None]

    def _put(self, name: str, before: CheckState | None, after: CheckState | None, caused: Alert | None) -> None:
        if after is None:
            self._memories.pop(name, None)
        else:
            self._memories[name] = after
        if after != before:
            self._changed.add(name)
        if caused is not None:
            self._caused.append(caused)


def _key(topic: str, name: str) -> bytes:
    return msgspec.json.encode([RECORD, topic, name])
