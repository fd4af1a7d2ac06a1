"""What people say about alerts, as commands on the compacted topic ``tidewatch.control``. Pure.

Every command has a key of its own, so compaction keeps all of them: the topic is the audit trail, and nobody reads before
writing. What holds now is a fold over the commands that does not depend on the order in which they are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import msgspec

from service.alerts.control.mutes import FalseMark, Mutes, Silence
from service.errors import InvalidMessage

WORDS = 2000  # longest note or comment
NAMES = 200  # longest author
LATEST_MS = 253_402_300_799_000  # the end of the year 9999, beyond which a time has no name
MarkVerdict = Literal["true", "false", "none"]


class Acknowledge(msgspec.Struct, frozen=True, kw_only=True, tag="acknowledge", tag_field="command"):
    """``author`` has taken the alert; the scoring worker that owns the episode makes it a transition."""

    id: str
    alert_id: str
    entity: str
    author: str
    at: int
    note: str = ""


class AddSilence(msgspec.Struct, frozen=True, kw_only=True, tag="silence", tag_field="command"):
    """What matches is not told from ``starts_at`` until ``ends_at`` (ms); ``id`` becomes the silence's id."""

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
    """A person's judgement of an alert; the newest one counts, ``none`` takes back.

    ``suppress`` asks that alerts like it (this entity or glob, resting on these metrics) be no longer told.
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


Said = TypeVar("Said", Acknowledge, ExpireSilence)
Command = Acknowledge | AddSilence | ExpireSilence | Mark
_decoder: msgspec.json.Decoder[Command] = msgspec.json.Decoder(Command)


def encode(command: Command) -> bytes:
    """The record value."""
    return msgspec.json.encode(command)


def encode_key(command: Command) -> bytes:
    """The record key: unique, so that compaction never drops a word anybody said."""
    return f"{type(command).__struct_config__.tag}/{command.id}".encode()


def decode(value: bytes | None) -> Command:
    """The inverse of ``encode``. Raises ``InvalidMessage`` for what is no command, or one that cannot be obeyed."""
    if value is None:
        raise InvalidMessage("empty", "A record of the control topic has no value.")
    try:
        command = _decoder.decode(value)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise InvalidMessage("not-a-command", f"A record of the control topic is not a command: {error}.") from error
    why = unusable(command)
    if why is not None:
        raise InvalidMessage("not-a-command", f"A command of {command.author!r} cannot be obeyed: {why}.")
    return command


def unusable(command: Command) -> str | None:
    """Why a command must not be written or obeyed, or ``None``."""
    if not command.author.strip() or len(command.author) > NAMES:
        return "it needs an author"
    if len(getattr(command, "note", "") + getattr(command, "comment", "")) > WORDS:
        return f"its note is longer than {WORDS} characters"
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
    """What holds now. Commands may come in any order and more than once."""

    def __init__(self) -> None:
        self._added: dict[str, AddSilence] = {}
        self._expired: dict[str, ExpireSilence] = {}
        self._marks: dict[str, dict[str, Mark]] = {}
        self.acknowledged: dict[str, Acknowledge] = {}

    def apply(self, command: Command) -> None:
        """Take one command in."""
        match command:
            case Acknowledge():
                self.acknowledged[command.alert_id] = _first(self.acknowledged.get(command.alert_id), command)
            case AddSilence():
                self._added[command.id] = command
            case ExpireSilence():
                self._expired[command.silence_id] = _first(self._expired.get(command.silence_id), command)
            case Mark():
                self._marks.setdefault(command.alert_id, {})[command.id] = command

    def silences(self) -> list[Silence]:
        """Every silence, expired ones with their end moved, by start."""
        held = [self._silence(added) for added in self._added.values()]
        return sorted(held, key=lambda silence: (silence.starts_at, silence.id))

    def marks(self) -> dict[str, Mark]:
        """The judgement that holds of each alert; those taken back are left out."""
        newest = {alert_id: max(said.values(), key=lambda mark: (mark.at, mark.id)) for alert_id, said in self._marks.items()}
        return {alert_id: mark for alert_id, mark in newest.items() if mark.verdict != "none"}

    def said_of(self, alert_id: str) -> list[Mark]:
        """Everything ever said of one alert, oldest first."""
        return sorted(self._marks.get(alert_id, {}).values(), key=lambda mark: (mark.at, mark.id))

    def mute(self, muting: Mutes, now: int) -> None:
        """Make ``muting`` follow what holds now; silences that are over are left out."""
        muting.silences = {silence.id: silence for silence in self.silences() if silence.ends_at > now}
        muting.false_marks = {mark.id: false_mark(mark) for mark in self.marks().values() if mark.suppress}

    def _silence(self, added: AddSilence) -> Silence:
        expired = self._expired.get(added.id)
        ends_at = added.ends_at if expired is None else max(added.starts_at, min(added.ends_at, expired.at))
        return Silence(added.id, added.match, added.starts_at, ends_at, added.author, added.comment)


def _first(held: Said | None, said: Said) -> Said:
    return said if held is None or (said.at, said.id) < (held.at, held.id) else held


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
    """Which of these alert documents the mark would have kept from being told."""
    return [
        document for document in history if mark.is_like(document["tidewatch"]["entity"], document["tidewatch"]["metric_names"])
    ]
