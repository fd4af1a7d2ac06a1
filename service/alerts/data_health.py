"""Alerts about the data itself: Tidewatch falls behind, refuses too much, or gets nothing. Pure but for who looks.

The one active notifier watches, so each is told once however many workers there are, and also when all of them are dead. Its
transitions go to the alerts topic like any other, and are stored, routed, silenced and told from there. What it remembers lies
with what the notifier remembers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from service.alerts.durations import span_words
from service.domain import Action, Alert, DataSeen, Severity, Status, alert_id
from service.errors import Stop
from service.settings import DataHealthSettings

RECORD = "data-health"
LEAST_READ = 100  # messages; the share of fewer is not worth telling, so they count with those that follow


class Finding(msgspec.Struct, frozen=True):
    """What one check found; ``words`` say it whether ``bad`` or not."""

    bad: bool
    words: str


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What must be remembered of one check: looks in a row that found it bad (or, while its alert is open, good), when the first
    bad one was, and the alert."""

    row: int
    since: int
    alert: Alert | None = None


def watched(settings: DataHealthSettings) -> set[str]:
    """The checks that have a bound, by name."""
    bounds = {"lag": settings.max_lag_records, "rejected": settings.max_rejected_share, "quiet": settings.max_quiet_seconds}
    return {name for name, bound in bounds.items() if bound is not None}


def check(seen: DataSeen, settings: DataHealthSettings) -> dict[str, Finding]:
    """What each check that has a bound found; one that cannot say anything now is left out."""
    found: dict[str, Finding] = {}
    if settings.max_lag_records is not None:
        behind, most = sum(seen.lag.values()), settings.max_lag_records
        where = sum(lag > 0 for lag in seen.lag.values())
        words = f"{behind:,} messages of {where} partition{'' if where == 1 else 's'} are not read yet ({most:,} may be)"
        found["lag"] = Finding(behind > most, words)
    if settings.max_rejected_share is not None and seen.read >= LEAST_READ:
        refused = sum(seen.rejected.values())
        share = refused / seen.read
        mostly = f", mostly {max(seen.rejected, key=lambda reason: seen.rejected[reason])}" if seen.rejected else ""
        words = f"{refused:,} of {seen.read:,} messages were refused{mostly} ({settings.max_rejected_share:.0%} may be)"
        found["rejected"] = Finding(share > settings.max_rejected_share, words)
    if settings.max_quiet_seconds is not None:
        words = f"nothing has arrived for {span_words(seen.quiet_ms)}" if seen.quiet_ms else "messages arrive"
        found["quiet"] = Finding(seen.quiet_ms > settings.max_quiet_seconds * 1000, words)
    return found


def step(
    memory: Memory | None, name: str, found: Finding, now: int, topic: str, settings: DataHealthSettings
) -> tuple[Memory | None, Alert | None]:
    """One look's effect on one check: what to remember, and the transition if there is one. It fires after ``fire_after`` bad looks
    in a row and resolves after as many good ones."""
    if memory is None or memory.alert is None:
        if not found.bad:
            return None, None
        row, since = (1, now) if memory is None else (memory.row + 1, memory.since)
        fired = _fired(name, found, since, now, topic) if row >= settings.fire_after else None
        return Memory(row=0 if fired else row, since=since, alert=fired), fired
    if found.bad:
        return (memory if memory.row == 0 else msgspec.structs.replace(memory, row=0)), None
    if memory.row + 1 < settings.fire_after:
        return msgspec.structs.replace(memory, row=memory.row + 1), None
    return None, _next(memory.alert, "resolved", found.words, now, status=Status.RESOLVED, ended_at=now)


def _fired(name: str, found: Finding, since: int, now: int, topic: str) -> Alert:
    return Alert(
        alert_id=alert_id(topic, f"{RECORD}/{name}", since),
        seq=1,
        action="fired",
        reason=found.words,
        entity=topic,
        status=Status.FIRING,
        severity=Severity.WARNING,
        peak_severity=Severity.WARNING,
        started_at=since,
        updated_at=now,
        fired_at=now,
        score=0.0,
        peak_score=0.0,
        p=1.0,
        peak_p=1.0,
        windows=0,
        labels={"check": name},
        topic=topic,
        kind="data_health",
    )


def _next(alert: Alert, action: Action, reason: str, now: int, **changes: object) -> Alert:
    facts = {"seq": alert.seq + 1, "action": action, "reason": reason, "updated_at": max(now, alert.updated_at)}
    return msgspec.structs.replace(alert, **(facts | changes))


class DataHealth:
    """The checks of one metrics topic. ``take_in`` a look; ``take_changes`` gives what is to be recorded and emitted."""

    def __init__(self, settings: DataHealthSettings, topic: str) -> None:
        self.settings = settings
        self._topic = topic
        self._memories: dict[str, Memory] = {}
        self._changed: set[str] = set()
        self._caused: list[Alert] = []
        self._read, self._rejected = 0, Counter[str]()  # since there was last enough to speak of a share

    def take_in(self, seen: DataSeen, now: int) -> None:
        """One look at the data, at ``now`` (wall-clock ms). A check that has lost its bound counts as good."""
        self._read += seen.read
        self._rejected.update(seen.rejected)
        found = check(msgspec.structs.replace(seen, read=self._read, rejected=dict(self._rejected)), self.settings)
        if self._read >= LEAST_READ:
            self._read, self._rejected = 0, Counter()
        found |= dict.fromkeys(self._memories.keys() - watched(self.settings), Finding(False, "no longer watched"))
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
                        self._memories[name] = msgspec.msgpack.decode(value, type=Memory)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Stop(
                f"What the notifier remembered of the data's health cannot be read: {error}.",
                hint="Delete the topic kafka.topics.notify_state to begin without memory (alerts still firing are told again).",
            ) from error

    def forget(self) -> None:
        """Another notifier watches."""
        self._read, self._rejected = 0, Counter()
        self._memories, self._changed, self._caused = {}, set(), []

    def open_alerts(self) -> Sequence[Alert]:
        """The newest state of every open alert."""
        return [memory.alert for memory in self._memories.values() if memory.alert is not None]

    def _put(self, name: str, before: Memory | None, after: Memory | None, caused: Alert | None) -> None:
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
