"""What callers send and get. Times are ISO 8601; a time without a zone is UTC."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, model_validator

from service.alerts.control.commands import LATEST_MS, NAMES, WORDS, Mark
from service.alerts.control.mutes import Silence
from service.alerts.times import iso
from service.domain import Severity, Status

LONGEST_SILENCE = 10 * 366 * 86_400


def readable(text: str) -> str:
    """The text as it came, if it is a time. Raises ``ValueError``."""
    moment(text)
    return text


def moment(text: str) -> int:
    """Milliseconds since the epoch of an ISO time, held within 1970 and 9999."""
    parsed = datetime.fromisoformat(text.upper())
    aware = parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    return min(max((aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1), 0), LATEST_MS)


Moment = Annotated[
    str, AfterValidator(readable), Field(json_schema_extra={"format": "date-time"}, examples=["2026-11-22T09:30:00Z"])
]
Author = Annotated[str, Field(min_length=1, max_length=NAMES, pattern=r"\S", examples=["Ada"])]
Words = Annotated[str, Field(max_length=WORDS)]
Glob = Annotated[str, Field(min_length=1, max_length=1000)]
Document = dict[str, Any]


class StrictQuery(BaseModel):
    """What callers send; an unknown key is an error, so that a typing mistake never passes silently."""

    model_config = ConfigDict(extra="forbid")


class HistoryQuery(StrictQuery):
    """Which documents, newest first."""

    since: Moment | None = None
    until: Moment | None = None
    entity: Annotated[Glob | None, Field(description="* and ? stand for anything.")] = None
    severity: Annotated[Severity | None, Field(description="Peak severity at least this.")] = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 50

    def bounds(self) -> dict[str, Any]:
        """The filters that alerts and events share, as ``history_query`` takes them."""
        return {
            "since": None if self.since is None else moment(self.since),
            "until": None if self.until is None else moment(self.until),
            "entity": self.entity,
            "severity": self.severity,
        }


class AlertFilters(HistoryQuery):
    """Which alerts; ``since`` and ``until`` bound the start."""

    status: Status | None = None
    show: Annotated[Literal["told", "all"], Field(description="all: also alerts that never fired")] = "told"
    after: Annotated[str | None, Field(pattern=r"^[0-9]{1,13}_[0-9a-f]{32}$", description="`next` of the page before.")] = None


class EventFilters(HistoryQuery):
    """Which transitions; ``since`` and ``until`` bound the time they happened."""

    alert_id: Annotated[str | None, Field(pattern=r"^[0-9a-f]{32}$")] = None
    action: Literal["opened", "fired", "raised", "lowered", "updated", "acknowledged", "resolved"] | None = None
    after: Annotated[
        str | None, Field(pattern=r"^[0-9]{1,13}_[0-9a-f]{32}_[0-9]{1,9}$", description="`next` of the page before.")
    ] = None


class PreviewFilters(StrictQuery):
    """What a suppressing mark would cover, and how far back to look."""

    entity: Annotated[Glob | None, Field(description="Instead of the alert's own entity; * and ? stand for anything.")] = None
    since: Moment | None = None


class SilenceFilters(StrictQuery):
    """Which silences."""

    show: Annotated[Literal["current", "all"], Field(description="all: also those that are over")] = "current"


class NewSilence(StrictQuery):
    """A silence to begin now, or at ``starts_at``."""

    match: Annotated[
        dict[Annotated[str, Field(min_length=1, max_length=200)], Glob],
        Field(min_length=1, max_length=20, examples=[{"entity": "db-*"}]),
    ]
    seconds: Annotated[float, Strict(), Field(ge=1, le=LONGEST_SILENCE, allow_inf_nan=False)]
    starts_at: Moment | None = None
    author: Author
    comment: Words = ""


class AuthoredRequest(StrictQuery):
    """Somebody's word without more."""

    author: Author


class Acknowledgement(AuthoredRequest):
    """Somebody has taken the alert."""

    note: Words = ""


class MarkRequest(AuthoredRequest):
    """Somebody's judgement of an alert; ``none`` takes every earlier one back. Only a false one can suppress its like."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [{"properties": {"verdict": {"const": "false"}}}, {"properties": {"suppress": {"const": False}}}]
        }
    )

    verdict: Literal["true", "false", "none"]
    note: Words = ""
    suppress: Annotated[bool, Strict(), Field(description="Of a false one: tell nobody of its like any more.")] = False
    entity: Annotated[Glob | None, Field(description="Suppress on this entity; * and ? stand for anything.")] = None

    @model_validator(mode="after")
    def _only_false(self) -> Self:
        if self.suppress and self.verdict != "false":
            raise ValueError("only an alert marked false can suppress its like")
        return self


class AlertPage(BaseModel):
    """Alert documents, and where the next page begins."""

    alerts: list[Document]
    next: str | None


class EventPage(BaseModel):
    """Transitions, and where the next page begins."""

    events: list[Document]
    next: str | None


class MarkShown(BaseModel):
    """A judgement that was made."""

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
        """The same for callers."""
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
    """One alert, its transitions in order, the messages about it, and everything people judged of it."""

    alert: Document
    events: list[Document]
    notifications: list[Document]
    judgements: list[MarkShown]


class PreviewShown(BaseModel):
    """The alerts that would have been kept quiet, of those looked at."""

    entity: str
    metrics: list[str]
    looked_at: int
    alerts: list[Document]


class SilenceShown(BaseModel):
    """A silence, and whether it holds now."""

    id: str
    state: Literal["coming", "holds", "over"]
    match: dict[str, str]
    starts_at: str
    ends_at: str
    author: str
    comment: str
    source: Annotated[Literal["people", "settings"], Field(description="settings: only changing those ends it")]

    @classmethod
    def of(cls, silence: Silence, now: int) -> SilenceShown:
        """The same for callers."""
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
    """Silences by their start, those of the settings file among them."""

    silences: list[SilenceShown]


class Accepted(BaseModel):
    """The command is written; the part that owns the alert will obey."""

    alert_id: str
    author: str


class HealthShown(BaseModel):
    """The API can do its work."""

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
