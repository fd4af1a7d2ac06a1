"""Which alerts are sent to which receivers, and which are muted."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, ClassVar, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, model_validator

from service.settings.base import Positive, Seconds, Section
from service.settings.receivers import HeartbeatSettings, Receiver


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"there is no time zone {name!r} (use a name like Europe/Berlin)") from error
    return name


TimeZone = Annotated[str, AfterValidator(_known_zone)]


class RouteSettings(Section):
    """Which alerts go to which receivers, and how they are grouped into messages.

    ``match`` maps ``entity``, ``severity``, ``model`` or a label to a glob (``"!glob"``: anything else); all must match. The first
    route that matches takes the alert; with ``continue_matching`` the next ones are tried too. ``group_by`` takes the same names:
    alerts with the same values share a message; without any, all alerts of the route do.
    """

    renamed: ClassVar = {"go_on": "continue_matching"}

    match: dict[str, str] = {}
    receivers: list[str]
    continue_matching: bool = False
    group_by: list[str] = []
    group_wait_seconds: Annotated[float, Field(ge=0)] = 5.0
    group_interval_seconds: Annotated[float, Field(ge=0)] = 60.0
    repeat_interval_seconds: Seconds = 14_400.0


class SilenceSettings(Section):
    """Alerts that match (see ``routes``) are muted from ``starts`` to ``ends``: stored, not sent. Times without a zone are UTC."""

    match: Annotated[dict[str, str], Field(min_length=1)]
    starts: datetime
    ends: datetime
    author: str
    comment: str

    @model_validator(mode="after")
    def _order(self) -> Self:
        utc = [moment if moment.tzinfo else moment.replace(tzinfo=UTC) for moment in (self.starts, self.ends)]
        if utc[0] >= utc[1]:
            raise ValueError("a silence must end after it starts")
        return self


class InhibitRuleSettings(Section):
    """While an alert matching ``source`` fires, those matching ``target`` with the same values of ``equal`` are muted."""

    source: Annotated[dict[str, str], Field(min_length=1)]
    target: Annotated[dict[str, str], Field(min_length=1)]
    equal: list[str] = []


class MaintenanceSettings(Section):
    """Alerts that match are not sent for ``duration_minutes`` of real time from each time that ``cron`` names in ``timezone``.

    Where the clocks jump forward over a start, the window opens at the jump. Where they are set back and a start comes twice, it
    opens once, at the first. An expression that names every hour (``30 * * * *``) follows the clock: nothing that is skipped
    opens, and what comes twice opens twice.
    """

    cron: str
    duration_minutes: Positive
    timezone: TimeZone = "UTC"
    match: dict[str, str] = {}
    comment: str = ""

    @model_validator(mode="after")
    def _readable(self) -> Self:
        from croniter import CroniterBadDateError, croniter  # only users of maintenance windows pay for its import

        if not croniter.is_valid(self.cron) or any(field[0] in "rR" for field in self.cron.split()):  # R: a random time
            raise ValueError(f"{self.cron!r} is not a cron expression (minute hour day month weekday)")
        try:
            croniter(self.cron, datetime(2000, 1, 1, tzinfo=UTC), max_years_between_matches=99).get_next()
        except CroniterBadDateError as error:
            raise ValueError(f"{self.cron!r} names no date that exists, so the window would never open") from error
        return self


class LinkSettings(Section):
    """What a message about a matching alert (see ``routes``) says of where to read and whom to ask. The first link with a
    ``runbook`` that matches gives the runbook, the first with an ``owner`` the owner.

    In ``runbook``, ``{entity}``, ``{metric}`` (the leading one), ``{alert_id}`` and ``{label}`` (any label's name) are replaced by
    the alert's, escaped for a URL.
    """

    match: dict[str, str] = {}
    runbook: str | None = None
    owner: str | None = None

    @model_validator(mode="after")
    def _useful(self) -> Self:
        if not self.runbook and not self.owner:
            raise ValueError("a link needs a runbook or an owner")
        if self.runbook:
            plain = re.sub(r"\{[^{}]+\}", "", self.runbook)
            parts = urlsplit(plain)
            if parts.scheme not in ("http", "https") or not parts.netloc or re.search(r"[{}\s]", plain):
                raise ValueError(f"the runbook {self.runbook!r} is no URL (write it like https://wiki.example.org/{{entity}})")
        return self


class UnitSettings(Section):
    """The unit of the metrics whose name matches this glob, as a message shows it. The first that matches counts."""

    match: str
    unit: Annotated[str, Field(min_length=1, max_length=20)]


class NotificationSettings(Section):
    """Receivers, routes and mutes, and how long a message is tried. Without ``routes`` every receiver gets every alert."""

    receivers: list[Receiver] = []
    routes: list[RouteSettings] = []
    silences: list[SilenceSettings] = []
    inhibit_rules: list[InhibitRuleSettings] = []
    maintenance: list[MaintenanceSettings] = []
    heartbeat: HeartbeatSettings | None = None
    send_resolved: bool = True
    attempt_timeout_seconds: Seconds = 10.0
    deadline_seconds: Seconds = 3600.0
    time_zone: TimeZone = "UTC"  # of the times in messages, beside UTC
    links: list[LinkSettings] = []
    units: list[UnitSettings] = []
    history_url: str | None = None  # where a message's "history" link leads, with {alert_id} in it

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = [receiver.name for receiver in self.receivers]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"notifications.receivers: the name {twice[0]!r} is used twice")
        unknown = sorted({name for route in self.routes for name in route.receivers} - set(names))
        if unknown:
            raise ValueError(f"notifications.routes: there is no receiver named {unknown[0]!r}")
        return self

    def effective_routes(self) -> list[RouteSettings]:
        """The routes; when there are none, one that sends every alert to every receiver."""
        return self.routes or [RouteSettings(receivers=[receiver.name for receiver in self.receivers])]
