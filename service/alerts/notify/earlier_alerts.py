"""When something like an alert happened last: from the alerts that this process saw, and from the history where it answers.

A page never waits for it. The history is asked in the background, for one entity at a time and with a time limit, when an alert
opens; the message says what is known when it becomes due.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from service.alerts.control.commands import Control
from service.alerts.history.base import PastAlert, PastAlerts, Remark
from service.alerts.history.past import remembered
from service.alerts.messages.circumstances import Earlier
from service.clock import Clock
from service.domain import Alert, Status
from service.observability.logging import get_logger

log = get_logger("notify")

COUNTED_MS = 30 * 86_400_000
LOOK_UP_SECONDS = 3.0  # the longest that one look-up takes
PAUSE_SECONDS = 60.0  # after one that failed
VALID_MS = 600_000  # an entity is not looked up again within
MOST_WAITING = 1_000  # entities that wait to be looked up; beyond, the oldest is left out
MOST_ENTITIES, MOST_OF_ENTITY = 2_000, 50  # remembered


class EarlierAlerts:
    """Remembers alerts that are over, and looks older ones up. Bounded; never raises."""

    def __init__(self, connect: Callable[[], PastAlerts] | None, control: Control, *, clock: Clock) -> None:
        """``connect``: to the history (``None``: there is none). ``control``: what operators said lately."""
        self._connect = connect
        self._control = control
        self._clock = clock
        self._past: OrderedDict[str, dict[str, PastAlert]] = OrderedDict()  # by entity and alert id
        self._looked_up: OrderedDict[str, int] = OrderedDict()  # entity: when
        self._waiting: OrderedDict[str, int] = OrderedDict()  # entity: look before this time
        self._wake = asyncio.Event()
        self._failed = False

    def observe(self, alert: Alert) -> None:
        """Take one transition in: one that opens has the past of its entity looked up, one that is over belongs to it."""
        if alert.status is Status.RESOLVED:
            if alert.fired_at is not None:
                self._remember(alert.entity, [remembered(alert)])
        elif self._connect is not None and self._clock.now_ms() - self._looked_up.get(alert.entity, -VALID_MS) >= VALID_MS:
            self._waiting.setdefault(alert.entity, alert.started_at)
            if len(self._waiting) > MOST_WAITING:
                self._waiting.popitem(last=False)
            self._wake.set()

    def of(self, alert: Alert) -> tuple[Earlier | None, int]:
        """The nearest earlier alert like this one, and how many there were in the 30 days before it."""
        like = alike(alert, list(self._past.get(alert.entity, {}).values()))
        if not like:
            return None, 0
        nearest = like[0]
        said = {(each.at, each.author): each for each in (*nearest.remarks, *remarks_of(self._control, nearest.alert_id))}
        return earlier(nearest, list(said.values())), sum(each.started_at >= alert.started_at - COUNTED_MS for each in like)

    async def look_up(self) -> None:
        """Ask the history about the entities that wait, one after the other, until cancelled."""
        if self._connect is None:
            return
        history: PastAlerts | None = None
        try:
            while True:
                self._wake.clear()
                if not self._waiting:
                    await self._wake.wait()
                    continue
                entity, before = self._waiting.popitem(last=False)
                try:
                    if history is None:
                        history = await asyncio.to_thread(self._connect)  # it imports its client
                    async with asyncio.timeout(LOOK_UP_SECONDS):
                        found = await history.past_alerts(entity, before)
                except Exception as error:  # noqa: BLE001 - whatever is wrong with the history, messages go out without it
                    await self._pause(error)
                    continue
                self._failed = False
                self._looked_up[entity] = self._clock.now_ms()
                if len(self._looked_up) > MOST_ENTITIES:
                    self._looked_up.popitem(last=False)
                self._remember(entity, found)
        finally:
            if history is not None:
                with contextlib.suppress(Exception):
                    await history.close()

    async def _pause(self, error: Exception) -> None:
        if not self._failed:
            log.warning("the history cannot be read: messages say nothing of earlier alerts", why=str(error)[:300])
        self._failed = True
        await self._clock.sleep(PAUSE_SECONDS)

    def _remember(self, entity: str, found: Sequence[PastAlert]) -> None:
        held = self._past.setdefault(entity, {})
        self._past.move_to_end(entity)
        for each in found:
            known = held.get(each.alert_id)
            if known is None or known.ended_at is None or each.remarks:
                held[each.alert_id] = each
        for alert_id in sorted(held, key=lambda name: held[name].started_at)[: max(0, len(held) - MOST_OF_ENTITY)]:
            del held[alert_id]
        if len(self._past) > MOST_ENTITIES:
            self._past.popitem(last=False)


def alike(alert: Alert, past: Sequence[PastAlert]) -> list[PastAlert]:
    """The earlier alerts with the same leading metric, newest first; where there are none, those that share a metric. Pure."""
    names = remembered(alert).metrics
    before = [each for each in past if each.started_at < alert.started_at and each.alert_id != alert.alert_id]
    same = [each for each in before if each.metrics[:1] == names[:1]] if names else []
    sharing = same or [each for each in before if set(each.metrics) & set(names)]
    return sorted(sharing, key=lambda each: each.started_at, reverse=True)


def earlier(past: PastAlert, said: Sequence[Remark]) -> Earlier:
    """The alert with the newest note about it, and the judgement that holds. Pure."""
    ordered = sorted(said, key=lambda each: each.at)
    noted = next((each for each in reversed(ordered) if each.note), ordered[-1] if ordered else None)
    verdict = next((each.verdict for each in reversed(ordered) if each.verdict is not None), None)
    marks: Mapping[str | None, str] = {"false": "false alarm", "true": "confirmed"}
    return Earlier(
        alert_id=past.alert_id,
        started_at=past.started_at,
        ended_at=past.ended_at,
        reason=past.reason,
        note=noted.note if noted else "",
        author=noted.author if noted else "",
        severity=past.severity,
        mark=marks.get(verdict, ""),
    )


def remarks_of(control: Control, alert_id: str) -> list[Remark]:
    """What the control topic still holds about an alert."""
    marks = [Remark(each.at, each.author, each.note, each.verdict) for each in control.marks_of(alert_id)]
    taken = control.acknowledged.get(alert_id)
    return marks + ([] if taken is None else [Remark(taken.at, taken.author, taken.note)])
