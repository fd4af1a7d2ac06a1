"""Requests and responses. Times are ISO 8601; a time without a zone is UTC."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, model_validator

from service.alerts.control.commands import LATEST_MS, LONGEST_AUTHOR, LONGEST_NOTE, Mark
from service.alerts.control.mutes import Silence
from service.alerts.times import iso
from service.domain import Action, Severity, Status

LONGEST_SILENCE = 10 * 366 * 86_400


def readable(text: str) -> str:
    """``text`` unchanged. Raises ``ValueError`` if it is no time."""
    moment(text)
    return text


def moment(text: str) -> int:
    """Milliseconds since the epoch of an ISO time; times outside 1970 to 9999 become the nearest one inside."""
    parsed = datetime.fromisoformat(text.upper())
    aware = parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    return min(max((aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1), 0), LATEST_MS)


Moment = Annotated[
    str, AfterValidator(readable), Field(json_schema_extra={"format": "date-time"}, examples=["2026-11-22T09:30:00Z"])
]
Author = Annotated[str, Field(min_length=1, max_length=LONGEST_AUTHOR, pattern=r"\S", examples=["Ada"])]
Words = Annotated[str, Field(max_length=LONGEST_NOTE)]
Glob = Annotated[str, Field(min_length=1, max_length=1000)]
Document = dict[str, Any]


class StrictQuery(BaseModel):
    """A request; an unknown key is an error, so that a typing mistake is noticed."""

    model_config = ConfigDict(extra="forbid")


class HistoryQuery(StrictQuery):
    """Which documents to return, newest first."""

    since: Annotated[Moment | None, Field(description="Not before this time.")] = None
    until: Annotated[Moment | None, Field(description="Before this time.")] = None
    entity: Annotated[Glob | None, Field(description="Only this entity; * and ? are wildcards.")] = None
    severity: Annotated[Severity | None, Field(description="Only with at least this peak severity.")] = None
    limit: Annotated[int, Field(ge=1, le=1000, description="At most this many documents in one page.")] = 50

    def bounds(self) -> dict[str, Any]:
        """The filters that alerts and events share, as ``history_query`` takes them."""
        return {
            "since": None if self.since is None else moment(self.since),
            "until": None if self.until is None else moment(self.until),
            "entity": self.entity,
            "severity": self.severity,
        }


class AlertFilters(HistoryQuery):
    """Which alerts to return; ``since`` and ``until`` limit their start."""

    status: Annotated[Status | None, Field(description="Only alerts that have this status now.")] = None
    show: Annotated[Literal["told", "all"], Field(description="told: alerts that have fired; all: also those that never did.")] = (
        "told"
    )
    after: Annotated[str | None, Field(pattern=r"^[0-9]{1,13}_[0-9a-f]{32}$", description="`next` of the previous page.")] = None


class EventFilters(HistoryQuery):
    """Which transitions to return; ``since`` and ``until`` limit the time of the transition."""

    alert_id: Annotated[str | None, Field(pattern=r"^[0-9a-f]{32}$", description="Only those of this alert (its whole id).")] = None
    action: Annotated[
        Action | None,
        Field(description="Only transitions of this kind."),
    ] = None
    after: Annotated[
        str | None, Field(pattern=r"^[0-9]{1,13}_[0-9a-f]{32}_[0-9]{1,9}$", description="`next` of the previous page.")
    ] = None


class PreviewFilters(StrictQuery):
    """What a suppressing mark would cover, and how far back to look."""

    entity: Annotated[Glob | None, Field(description="Instead of the alert's own entity; * and ? are wildcards.")] = None
    since: Annotated[Moment | None, Field(description="Look at alerts since this time; 30 days by default.")] = None


class SilenceFilters(StrictQuery):
    """Which silences to return."""

    show: Annotated[
        Literal["current", "all"], Field(description="current: in force or still to begin; all: also those that have ended.")
    ] = "current"


class NewSilence(StrictQuery):
    """A silence that begins now, or at ``starts_at``."""

    match: Annotated[
        dict[Annotated[str, Field(min_length=1, max_length=200)], Glob],
        Field(
            min_length=1,
            max_length=20,
            description="Entity, severity, model, alert or a label, and a pattern: * and ? are wildcards, !PATTERN is everything "
            "else. An alert must match all of them.",
            examples=[{"entity": "db-*"}],
        ),
    ]
    seconds: Annotated[float, Strict(), Field(ge=1, le=LONGEST_SILENCE, allow_inf_nan=False, description="How long it lasts.")]
    starts_at: Annotated[Moment | None, Field(description="When it begins. Default: now.")] = None
    author: Author
    comment: Words = ""


class AuthoredRequest(StrictQuery):
    """A command that needs only its author."""

    author: Author


class Acknowledgement(AuthoredRequest):
    """Acknowledges an alert."""

    note: Words = ""


class MarkRequest(AuthoredRequest):
    """Marks an alert: ``false`` is a false alarm, ``true`` a real problem, ``none`` takes every earlier mark back."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [{"properties": {"verdict": {"const": "false"}}}, {"properties": {"suppress": {"const": False}}}]
        }
    )

    verdict: Literal["true", "false", "none"]
    note: Words = ""
    suppress: Annotated[
        bool, Strict(), Field(description="With false: send nothing about alerts of the same entity and metrics.")
    ] = False
    entity: Annotated[Glob | None, Field(description="Suppress on this entity instead; * and ? are wildcards.")] = None

    @model_validator(mode="after")
    def _only_false(self) -> Self:
        if self.suppress and self.verdict != "false":
            raise ValueError("only an alert marked false can suppress others")
        return self


class AlertPage(BaseModel):
    """Alert documents; ``next`` is the ``after`` of the next page, null on the last one."""

    alerts: list[Document]
    next: str | None


class EventPage(BaseModel):
    """Transition documents; ``next`` is the ``after`` of the next page, null on the last one."""

    events: list[Document]
    next: str | None


class MarkShown(BaseModel):
    """A mark that an operator made."""

    alert_id: str
    verdict: Literal["true", "false", "none"]
    entity: str
    metrics: list[str]
    author: str
    at: str
    note: str
    suppress: bool

    @classmethod
    def of(cls, mark: Mark) -> MarkShown:
        """The response for ``mark``."""
        return cls(
            alert_id=mark.alert_id,
            verdict=mark.verdict,
            entity=mark.entity,
            metrics=list(mark.metrics),
            author=mark.author,
            at=iso(mark.at),
            note=mark.note,
            suppress=mark.suppress,
        )


class AlertShown(BaseModel):
    """One alert, its transitions in order, the messages about it, and the marks of operators."""

    alert: Document
    events: list[Document]
    notifications: list[Document]
    judgements: list[MarkShown]


class PreviewShown(BaseModel):
    """The alerts that would have been suppressed, and of how many."""

    entity: str
    metrics: list[str]
    looked_at: int
    alerts: list[Document]


class SilenceShown(BaseModel):
    """A silence, and whether it is in force now."""

    id: str
    state: Annotated[
        Literal["coming", "holds", "over"], Field(description="coming: still to begin; holds: in force; over: has ended.")
    ]
    match: dict[str, str]
    starts_at: str
    ends_at: str
    author: str
    comment: str
    source: Annotated[
        Literal["people", "settings"],
        Field(description="people: set by an operator; settings: ends only when the settings change."),
    ]

    @classmethod
    def of(cls, silence: Silence, now: int) -> SilenceShown:
        """The response for ``silence`` at ``now`` (ms)."""
        state: Literal["coming", "holds", "over"] = (
            "coming" if now < silence.starts_at else "holds" if now < silence.ends_at else "over"
        )
        return cls(
            id=silence.id,
            state=state,
            match=silence.match,
            starts_at=iso(silence.starts_at),
            ends_at=iso(silence.ends_at),
            author=silence.author,
            comment=silence.comment,
            source="settings" if silence.fixed else "people",
        )


class SilenceList(BaseModel):
    """Silences by their start, including those of the settings file."""

    silences: list[SilenceShown]


class Accepted(BaseModel):
    """The command is written; the part that owns the alert will apply it."""

    alert_id: str
    author: str


class HealthShown(BaseModel):
    """The API works and reaches the alert history."""

    status: Literal["ok"]
    history: str


def position(after: str | None) -> Sequence[Any] | None:
    """The inverse of ``cursor``."""
    if after is None:
        return None
    time, alert_id, *sequence = after.split("_")
    return [int(time), alert_id, *map(int, sequence)]


def cursor(values: Sequence[Any] | None) -> str | None:
    """A position in the history as text."""
    return None if values is None else "_".join(map(str, values))
