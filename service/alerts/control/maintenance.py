"""When a maintenance window is open: a length of real time from each local start that its cron expression names. Pure.

Cron expressions name times on the wall clock of the window's zone, and twice a year that clock jumps. The rules are those of
``cron(8)``, so that a window opens when the job runs that it covers:

- A start that the jump skips opens as the clocks jump.
- A start that comes twice opens once, at the first of the two.
- An expression that names every hour of a day (``30 * * * *``) follows the clock instead: what is skipped does not open, what comes
  twice opens twice. Its starts are an hour apart, so nothing is missed and nothing is doubled.

croniter is asked only about wall-clock times without a zone; its own arithmetic across a jump is not used.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from service.settings import MaintenanceSettings

SPANS_KEPT = 8  # spans between two starts, so that alerts that come out of order do not ask croniter each time
SECOND = timedelta(seconds=1)
ALWAYS = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


class MaintenanceWindow:
    """One window. ``is_open`` asks croniter once between two starts, and never more than once a second."""

    def __init__(self, settings: MaintenanceSettings) -> None:
        self.settings = settings
        self._cron = settings.cron
        self._zone = ZoneInfo(settings.timezone)
        self._length = timedelta(minutes=settings.duration_minutes)
        self._spans: list[tuple[datetime, datetime]] = []  # newest first; see ``_span``

    def is_open(self, now: int) -> bool:
        """True for ``duration_minutes`` of real time from each start; ``now`` in ms."""
        moment = datetime.fromtimestamp(now / 1000, UTC)
        for began, until in self._spans:
            if began <= moment < until:
                return moment - began < self._length
        span = self._span(moment)
        self._spans = [span, *self._spans[: SPANS_KEPT - 1]]
        return moment - span[0] < self._length

    def _span(self, moment: datetime) -> tuple[datetime, datetime]:
        """The newest start at or before ``moment``, and a later moment before which there is no other (both in UTC)."""
        local = moment.astimezone(self._zone)
        ends = [local.replace(tzinfo=None, fold=0)]
        if local.fold:  # the first pass showed later times than this one does so far
            change = _change(self._zone, _instants(local.replace(fold=0), self._zone)[0], moment)
            ends.append((change - SECOND).astimezone(self._zone).replace(tzinfo=None, fold=0))
        began = max((self._last(end, moment) for end in ends), default=ALWAYS[0])
        if len(_instants(ends[0], self._zone)) == 2:  # while the clock shows the same times twice, look every second
            return began, moment.replace(microsecond=0) + SECOND
        return began, self._next(ends[0])

    def _last(self, wall: datetime, moment: datetime) -> datetime:
        for named in _named(self._cron, wall, "backwards"):
            starts = [start for start in self._starts(named) if start <= moment]
            if starts:
                return starts[-1]
        return ALWAYS[0]

    def _next(self, wall: datetime) -> datetime:
        return next((starts[0] for named in _named(self._cron, wall, "forwards") if (starts := self._starts(named))), ALWAYS[1])

    def _starts(self, wall: datetime) -> list[datetime]:
        """When a window opens because of this time on the wall clock."""
        instants = _instants(wall, self._zone)
        if _names_every_hour(self._cron):
            return instants
        return instants[:1] or [_jump_over(wall, self._zone)]


def _named(cron: str, wall: datetime, way: str) -> Iterator[datetime]:
    """The times that an expression names: those at or before ``wall``, the newest first, or those after it."""
    from croniter import CroniterBadDateError, croniter  # only users of maintenance windows pay for its import

    whole = wall.replace(microsecond=0)
    times = croniter(cron, whole + SECOND if way == "backwards" else whole)
    try:
        while True:
            named: datetime = times.get_prev(datetime) if way == "backwards" else times.get_next(datetime)
            yield named
    except CroniterBadDateError:  # an expression with a year has a first and a last time
        return


@lru_cache
def _names_every_hour(cron: str) -> bool:
    from croniter import croniter

    return bool(croniter.expand(cron)[0][1] == ["*"])


def _instants(wall: datetime, zone: ZoneInfo) -> list[datetime]:
    """When the clock of ``zone`` shows this: once; twice where it is set back; never where it jumps over it."""
    found: list[datetime] = []
    for fold in (0, 1):
        instant = wall.replace(tzinfo=zone, fold=fold).astimezone(UTC)
        shown = instant.astimezone(zone).replace(tzinfo=None, fold=0)
        if shown == wall.replace(tzinfo=None, fold=0) and instant not in found:
            found.append(instant)
    return found


def _jump_over(wall: datetime, zone: ZoneInfo) -> datetime:
    """The moment at which the clock jumps over this time."""
    before = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)  # PEP 495: in a gap, by the offset that comes into force
    return _change(zone, before, wall.replace(tzinfo=zone, fold=0).astimezone(UTC))


def _change(zone: ZoneInfo, before: datetime, after: datetime) -> datetime:
    """The second at which the zone's offset becomes what it is ``after``; it changes once between the two."""
    new = after.astimezone(zone).utcoffset()
    low, high = math.floor(before.timestamp()), math.ceil(after.timestamp())
    while high - low > 1:
        middle = (low + high) // 2
        if datetime.fromtimestamp(middle, zone).utcoffset() == new:
            high = middle
        else:
            low = middle
    return datetime.fromtimestamp(high, UTC)
