"""What operators do: acknowledge, silence, mark. The API and the CLI both use this; each act is a command on ``tidewatch.control``.

Nothing but commands is written, so nothing races with the parts that own alerts and messages.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from service.alerts.control.commands import (
    Acknowledge,
    AddSilence,
    Command,
    Control,
    ExpireSilence,
    Mark,
    MarkVerdict,
    false_mark,
    mark_of,
    preview,
)
from service.alerts.control.mutes import Silence
from service.alerts.control.topic import ControlReader, send_command
from service.clock import Clock
from service.errors import CommandRefused, NotFound
from service.observability.tasks import BackgroundTasks
from service.settings import KafkaSettings

PREVIEW_ALERTS = 10_000  # the newest alerts that a preview looks through


class AlertLookup(Protocol):
    """What is needed of the alert history."""

    async def show(self, alert_id: str) -> Any:
        """One alert by the beginning of its id, or ``None``."""
        ...

    def scan(self, *, since: int | None, entity: str | None, told_only: bool) -> AsyncIterator[dict[str, Any]]:
        """Alert documents, newest first."""
        ...


class Preview(msgspec.Struct, frozen=True):
    """What a false mark would have muted: ``alerts`` are documents, newest first, out of ``looked_at`` alerts that were sent."""

    entity: str
    metrics: tuple[str, ...]
    looked_at: int
    alerts: list[dict[str, Any]]


class Operators:
    """Writes commands, and holds the fold over all of them. Every method may raise ``BrokerUnavailable``, ``StoreUnavailable``, or
    ``ConfigError``; ``NotFound`` for an unknown alert or silence; ``CommandRefused`` for a command that readers would skip."""

    def __init__(
        self, kafka: KafkaSettings, history: AlertLookup, *, clock: Clock, tasks: BackgroundTasks, fixed: Sequence[Silence] = ()
    ) -> None:
        """``tasks``: its own, for following the control topic. ``fixed``: the silences that stand in the settings."""
        self._kafka = kafka
        self._history = history
        self._clock = clock
        self._fixed = fixed
        self.control = Control()
        self._reader = ControlReader(kafka, self._apply, tasks, on_dropped=self.control.drop)

    async def start(self) -> None:
        """Read the commands given so far, and follow. Needed only for ``silences``, ``expire`` and ``marks_of``."""
        await self._reader.start()

    async def close(self) -> None:
        """Stop following."""
        await self._reader.close()

    async def acknowledge(self, alert_id: str, *, author: str, note: str = "") -> Acknowledge:
        """Acknowledge an alert: no more reminders of it. The scoring process that owns the alert makes it a transition."""
        ours = (await self._find(alert_id))["tidewatch"]
        command = Acknowledge(
            id=_new_id(), alert_id=ours["alert_id"], entity=ours["entity"], author=author, at=self._clock.now_ms(), note=note
        )
        await self._send(command)
        return command

    async def silence(
        self, match: Mapping[str, str], *, seconds: float, author: str, comment: str = "", starts_at: int | None = None
    ) -> Silence:
        """Mute what matches, from ``starts_at`` (ms, default now) for ``seconds``."""
        now = self._clock.now_ms()
        begin = now if starts_at is None else starts_at
        command = AddSilence(
            id=_new_id(),
            match=dict(match),
            starts_at=begin,
            ends_at=begin + round(seconds * 1000),
            author=author,
            at=now,
            comment=comment,
        )
        await self._send(command)
        return Silence(command.id, command.match, command.starts_at, command.ends_at, command.author, command.comment)

    async def expire(self, silence_id: str, *, author: str) -> Silence:
        """End a silence now; an unambiguous beginning of its id is enough. One that is over already stays as it was."""
        found = [silence for silence in self._silences() if silence.id.startswith(silence_id)]
        exact = [silence for silence in found if silence.id == silence_id] or found
        if len(exact) != 1 or not silence_id:
            raise NotFound(
                f"There is no silence whose id begins with {silence_id!r}, or there are several.",
                hint="See: tidewatch silence list",
            )
        if exact[0].fixed:
            raise CommandRefused(
                f"Silence {exact[0].id} stands in the settings, so no command ends it.",
                hint="Remove it from notifications.silences, and restart what runs with those settings.",
            )
        await self._send(ExpireSilence(id=_new_id(), silence_id=exact[0].id, author=author, at=self._clock.now_ms()))
        return next(silence for silence in self.control.silences() if silence.id == exact[0].id)

    def silences(self, *, over: bool = False) -> list[Silence]:
        """Those in force or to come, by start, the settings' among them; with ``over`` also those that have ended."""
        now = self._clock.now_ms()
        return [silence for silence in self._silences() if over or silence.ends_at > now]

    def _silences(self) -> list[Silence]:
        return sorted([*self._fixed, *self.control.silences()], key=lambda silence: (silence.starts_at, silence.id))

    async def mark(
        self,
        alert_id: str,
        verdict: MarkVerdict,
        *,
        author: str,
        note: str = "",
        suppress: bool = False,
        entity: str | None = None,
    ) -> Mark:
        """Judge an alert; ``none`` takes every earlier judgement back. ``suppress``: mute alerts like it from now on."""
        alert = await self._find(alert_id)
        command = mark_of(
            alert,
            mark_id=_new_id(),
            author=author,
            at=self._clock.now_ms(),
            verdict=verdict,
            note=note,
            suppress=suppress,
            entity=entity,
        )
        await self._send(command)
        return command

    async def preview(self, alert_id: str, *, since: int | None = None, entity: str | None = None) -> Preview:
        """Which alerts sent since then (ms) a suppressing false mark of this one would have muted. Nothing is written."""
        alert = await self._find(alert_id)
        mark = mark_of(alert, mark_id="", author="", at=0, verdict="false", entity=entity)
        sent: list[dict[str, Any]] = []
        async for each in self._history.scan(since=since, entity=None, told_only=True):
            sent.append(each)
            if len(sent) == PREVIEW_ALERTS:
                break
        return Preview(mark.entity, mark.metrics, len(sent), list(preview(false_mark(mark), sent)))  # type: ignore[arg-type]  # same documents

    def marks_of(self, alert_id: str) -> list[Mark]:
        """The judgements of an alert (its whole id) that the control topic still holds, oldest first."""
        return self.control.marks_of(alert_id)

    async def _find(self, alert_id: str) -> dict[str, Any]:
        found = await self._history.show(alert_id)
        if found is None:
            raise NotFound(
                f"There is no alert whose id begins with {alert_id!r}, or there are several.",
                hint="See: tidewatch alerts list --all",
            )
        alert: dict[str, Any] = found.alert
        return alert

    async def _send(self, command: Command) -> None:
        await send_command(self._kafka, command)
        self.control.apply(command)  # it will be read again, which changes nothing

    def _apply(self, commands: list[Command]) -> None:
        for command in commands:
            self.control.apply(command)


def _new_id() -> str:
    return uuid.uuid4().hex[:12]
