"""The commands of operators about alerts, as they lie on the compacted topic ``tidewatch.control``. Pure.

Every command has a key of its own, so a command can be written without reading the topic first, and compaction keeps it until it
is deleted by its key. What holds now is a fold over the commands that does not depend on the order in which they are read. The
store part copies every command to the audit log, and deletes from the topic what no longer changes anything (``outdated``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import msgspec

from service.alerts.control.mutes import FalseMark, Mutes, Silence
from service.errors import InvalidMessage

LONGEST_NOTE = 2000  # characters; of a comment too
LONGEST_AUTHOR = 200
LATEST_MS = 253_402_300_799_000  # the end of the year 9999, beyond which a time has no name
MarkVerdict = Literal["true", "false", "none"]


class Acknowledge(msgspec.Struct, frozen=True, kw_only=True, tag="acknowledge", tag_field="command"):
    """``author`` takes the alert; the scoring process that owns the episode makes it a transition."""

    id: str
    alert_id: str
    entity: str
    author: str
    at: int
    note: str = ""


class AddSilence(msgspec.Struct, frozen=True, kw_only=True, tag="silence", tag_field="command"):
    """Alerts that match are not sent from ``starts_at`` until ``ends_at`` (ms); ``id`` becomes the silence's id."""

    id: str
    match: dict[str, str]
    starts_at: int
    ends_at: int
    author: str
    at: int
    comment: str = ""


class ExpireSilence(msgspec.Struct, frozen=True, kw_only=True, tag="expire", tag_field="command"):
    """The silence ends at ``at``, or never begins."""

    id: str
    silence_id: str
    author: str
    at: int


class Mark(msgspec.Struct, frozen=True, kw_only=True, tag="mark", tag_field="command"):
    """An operator's judgement of an alert; the newest one counts, ``none`` takes it back.

    ``suppress``: alerts like it (of this entity or glob, resting on these metrics) are no longer sent.
    """

    id: str
    alert_id: str
    verdict: MarkVerdict
    entity: str
    metrics: tuple[str, ...]
    author: str
    at: int
    note: str = ""
    suppress: bool = False


Command = Acknowledge | AddSilence | ExpireSilence | Mark
Kind = TypeVar("Kind", Acknowledge, AddSilence, ExpireSilence, Mark)
_decoder: msgspec.json.Decoder[Command] = msgspec.json.Decoder(Command)


def encode(command: Command) -> bytes:
    """The record value."""
    return msgspec.json.encode(command)


def encode_key(command: Command) -> bytes:
    """The record key: unique, so that compaction keeps every command."""
    return f"{type(command).__struct_config__.tag}/{command.id}".encode()


def decode(value: bytes | None) -> Command:
    """The inverse of ``encode``. Raises ``InvalidMessage`` for what is no command, or one that cannot be applied."""
    if value is None:
        raise InvalidMessage("empty", "A record of the control topic has no value.")
    try:
        command = _decoder.decode(value)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise InvalidMessage("not-a-command", f"A record of the control topic is not a command: {error}.") from error
    why = refusal(command)
    if why is not None:
        raise InvalidMessage("not-a-command", f"A command of {command.author!r} cannot be applied: {why}.")
    return command


def refusal(command: Command) -> str | None:
    """Why a command must not be written or applied, or ``None``."""
    if not command.author.strip() or len(command.author) > LONGEST_AUTHOR:
        return "it needs an author"
    if len(getattr(command, "note", "") + getattr(command, "comment", "")) > LONGEST_NOTE:
        return f"its note is longer than {LONGEST_NOTE} characters"
    times = (command.at, *((command.starts_at, command.ends_at) if isinstance(command, AddSilence) else ()))
    if not all(0 <= each <= LATEST_MS for each in times):
        return "its times must lie between 1970 and 9999"
    if isinstance(command, AddSilence):
        if not command.match:
            return "a silence without a matcher would mute everything"
        if command.ends_at <= command.starts_at:
            return "the silence must end after it starts"
    if isinstance(command, Mark) and command.suppress and not (command.verdict == "false" and command.metrics):
        return "only an alert marked false, with its metrics, can suppress its like"
    return None


class Control:
    """What holds now. Commands may come in any order and more than once.

    It holds what the topic holds: ``apply`` adds a command, ``drop`` takes out those that were deleted from the topic.
    """

    def __init__(self) -> None:
        self._commands: dict[str, Command] = {}  # by record key

    def apply(self, command: Command) -> None:
        """Take one command in."""
        self._commands[encode_key(command).decode()] = command

    def drop(self, keys: Iterable[str]) -> None:
        """Forget commands by their record keys; unknown ones are ignored."""
        for key in keys:
            self._commands.pop(key, None)

    @property
    def acknowledged(self) -> dict[str, Acknowledge]:
        """The first acknowledgement of each alert."""
        return {each.alert_id: each for each in sorted(self._of(Acknowledge), key=_when, reverse=True)}

    def silences(self) -> list[Silence]:
        """Every silence, expired ones with their end moved, by start."""
        expired = self._expired()
        held = [_silence(added, expired.get(added.id)) for added in self._of(AddSilence)]
        return sorted(held, key=lambda silence: (silence.starts_at, silence.id))

    def marks(self) -> dict[str, Mark]:
        """The judgement that holds of each alert; those taken back are left out."""
        return {alert_id: marks[-1] for alert_id, marks in self._marks().items() if marks[-1].verdict != "none"}

    def marks_of(self, alert_id: str) -> list[Mark]:
        """Every judgement of one alert that the topic still holds, oldest first."""
        return self._marks().get(alert_id, [])

    def mute(self, muting: Mutes, now: int) -> None:
        """Make ``muting`` follow what holds now; silences that are over are left out."""
        muting.silences = {silence.id: silence for silence in self.silences() if silence.ends_at > now}
        muting.false_marks = {mark.id: false_mark(mark) for mark in self.marks().values() if mark.suppress}

    def outdated(self, before: int) -> list[str]:
        """Keys of the commands that no longer change what holds at ``before`` (ms) or later, in the order to delete them in.

        Those are acknowledgements and judgements given before it, unless they still suppress; and silences that had ended, with
        the commands that ended them. Deleting only a first part of the list changes nothing either: what took effect goes before
        what took it back.
        """
        expired = self._expired()
        ended = {
            each.id for each in self.silences() if (each.ends_at if each.starts_at < each.ends_at else expired[each.id]) < before
        }
        old = [key for key, each in self._commands.items() if isinstance(each, Acknowledge) and each.at < before]
        for marks in self._marks().values():
            over = marks[:-1] if marks[-1].suppress else marks
            old += [_key(mark) for mark in over if mark.at < before]
        old += [_key(each) for each in self._of(AddSilence) if each.id in ended]
        kept = {each.id for each in self._of(AddSilence)} - ended
        return old + [_key(each) for each in self._of(ExpireSilence) if each.at < before and each.silence_id not in kept]

    def _of(self, kind: type[Kind]) -> Iterable[Kind]:
        return (command for command in self._commands.values() if isinstance(command, kind))

    def _expired(self) -> dict[str, int]:
        """When each silence was first ended by a command (ms)."""
        expired: dict[str, int] = {}
        for each in self._of(ExpireSilence):
            expired[each.silence_id] = min(each.at, expired.get(each.silence_id, each.at))
        return expired

    def _marks(self) -> dict[str, list[Mark]]:
        """The judgements of each alert, oldest first."""
        marks: dict[str, list[Mark]] = {}
        for mark in sorted(self._of(Mark), key=_when):
            marks.setdefault(mark.alert_id, []).append(mark)
        return marks


def _when(command: Command) -> tuple[int, str]:
    return command.at, command.id


def _key(command: Command) -> str:
    return encode_key(command).decode()


def _silence(added: AddSilence, expired_at: int | None) -> Silence:
    ends_at = added.ends_at if expired_at is None else max(added.starts_at, min(added.ends_at, expired_at))
    return Silence(added.id, added.match, added.starts_at, ends_at, added.author, added.comment)


def false_mark(mark: Mark) -> FalseMark:
    """What a suppressing mark mutes."""
    return FalseMark(mark.id, mark.alert_id, mark.entity, mark.metrics, mark.author, mark.note)


def mark_of(
    document: Mapping[str, Any],
    *,
    mark_id: str,
    author: str,
    at: int,
    verdict: MarkVerdict,
    note: str = "",
    suppress: bool = False,
    entity: str | None = None,
) -> Mark:
    """A judgement of the alert in ``document`` (``documents.document``), with the metrics it mainly rests on: the fewest that
    hold half of the attribution. ``entity``: a glob, when more than this alert's own entity is meant."""
    ours = document["tidewatch"]
    names: list[str] = []
    held = 0.0
    for metric in ours["metrics"]:
        names.append(metric["name"])
        held += metric["share"]
        if held >= 0.5:
            break
    return Mark(
        id=mark_id,
        alert_id=ours["alert_id"],
        verdict=verdict,
        entity=entity or ours["entity"],
        metrics=tuple(names),
        author=author,
        at=at,
        note=note,
        suppress=suppress,
    )


def preview(mark: FalseMark, history: Iterable[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Which of these alert documents the mark would have muted."""
    return [
        document for document in history if mark.is_like(document["tidewatch"]["entity"], document["tidewatch"]["metric_names"])
    ]
