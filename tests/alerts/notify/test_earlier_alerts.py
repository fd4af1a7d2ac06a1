"""When something like it happened last: the choice, and a history that may never delay or prevent a message."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from service.alerts.control.commands import Acknowledge, Control, Mark
from service.alerts.history.base import PastAlert, Remark
from service.alerts.history.past import remembered
from service.alerts.notify.earlier_alerts import MOST_OF_ENTITY, MOST_WAITING, EarlierAlerts, alike, earlier
from service.clock import Clock, ManualClock
from service.domain import Alert, Severity, Status
from service.errors import StoreUnavailable
from tests.alerts.makers import BORN, alert, life

MINUTE = 60_000
NOW = BORN * 1000


def past(name: str, days_ago: float, *metrics: str, **changes: object) -> PastAlert:
    began = NOW - round(days_ago * 86_400_000)
    facts = {"ended_at": began + MINUTE, "reason": "quiet", "severity": Severity.WARNING, "metrics": metrics or ("cpu_percent",)}
    return PastAlert(**({"alert_id": name, "entity": "db-7", "started_at": began} | facts | changes))  # type: ignore[arg-type]


def test_the_nearest_alert_with_the_same_leading_metric_counts_before_one_that_shares_a_metric() -> None:
    now = alert()  # led by cpu_percent, then memory_percent
    sharing, same, older = past("c", 1, "disk", "memory_percent"), past("b", 2), past("a", 3)
    assert alike(now, [older, sharing, same]) == [same, older]
    assert alike(now, [sharing, past("d", 1, "disk")]) == [sharing]
    assert alike(now, [past("d", -1), past(now.alert_id, 1)]) == []
    assert alike(alert(metrics=()), [past("d", 1)]) == []


def test_the_newest_note_and_the_judgement_that_holds_are_told() -> None:
    said = [Remark(3, "Cy", "", "false"), Remark(2, "Bo", "backup", None), Remark(1, "Ada", "disk?", "true")]
    told = earlier(past("a", 1), said)
    assert (told.note, told.author, told.mark) == ("backup", "Bo", "false alarm")
    assert earlier(past("a", 1), [*said, Remark(4, "Cy", "", "none")]).mark == ""
    assert earlier(past("a", 1), []).note == ""


class History:
    """A history that answers, fails or hangs."""

    def __init__(self, *found: PastAlert, fails: Exception | None = None, hangs: bool = False) -> None:
        self.found, self.fails, self.hangs, self.asked, self.closed = found, fails, hangs, 0, False

    async def past_alerts(self, _entity: str, _before: int) -> Sequence[PastAlert]:
        self.asked += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.fails is not None:
            raise self.fails
        return self.found

    async def close(self) -> None:
        self.closed = True


async def looked_up(history: History, *alerts: Alert, clock: Clock | None = None) -> EarlierAlerts:
    made = EarlierAlerts(lambda: history, Control(), clock=clock or ManualClock(NOW))
    for each in alerts:
        made.observe(each)
    work = asyncio.create_task(made.look_up())
    async with asyncio.timeout(20):
        while history.asked < 1:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.01)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    return made


async def test_the_history_is_asked_in_the_background_once_for_an_entity() -> None:
    history = History(past("b", 2), past("a", 40))
    opened, fired, _ = life()
    made = await looked_up(history, opened, fired)
    found, count = made.of(fired)
    assert found is not None
    assert (found.alert_id, count) == ("b", 1)  # the other is more than 30 days old
    made.observe(alert(seq=4))
    assert made._waiting == {}
    assert history.closed


async def test_a_history_that_fails_costs_only_what_it_would_have_said() -> None:
    history = History(fails=StoreUnavailable("away"))
    made = await looked_up(history, alert())
    assert made.of(alert()) == (None, 0)
    *_, resolved = life()
    made.observe(resolved)  # without it, what this process saw is remembered
    again = alert(started_at=NOW + 600_000)
    found, count = made.of(again)
    assert found is not None
    assert (found.alert_id, found.ended_at, count) == (resolved.alert_id, resolved.ended_at, 1)


def test_what_operators_said_lately_is_known_without_the_history() -> None:
    control = Control()
    made = EarlierAlerts(None, control, clock=ManualClock(NOW))
    *_, resolved = life()
    made.observe(resolved)
    name = resolved.alert_id
    control.apply(Acknowledge(id="1", alert_id=name, entity="db-7", author="Ada", at=1, note="the backup"))
    control.apply(Mark(id="2", alert_id=name, verdict="false", entity="db-7", metrics=("cpu",), author="Bo", at=2))
    found, _ = made.of(alert(started_at=NOW + 600_000))
    assert found is not None
    assert (found.note, found.author, found.mark) == ("the backup", "Ada", "false alarm")


def test_what_is_remembered_is_bounded() -> None:
    made = EarlierAlerts(lambda: History(), Control(), clock=ManualClock(NOW))
    for n in range(MOST_WAITING + 100):
        made.observe(alert(f"host-{n}"))
    assert len(made._waiting) == MOST_WAITING
    for n in range(MOST_OF_ENTITY + 10):
        made.observe(alert(status=Status.RESOLVED, started_at=NOW + n * 1000))
    assert min(each.started_at for each in made._past["db-7"].values()) == NOW + 10_000
    assert len(made._past["db-7"]) == MOST_OF_ENTITY


def test_an_alert_about_the_data_is_like_one_of_the_same_check() -> None:
    silent = alert(kind="data_health", metrics=(), labels={"check": "silent"}, status=Status.RESOLVED)
    assert alike(alert(kind="data_health", metrics=(), labels={"check": "silent"}, started_at=NOW + 1000), [remembered(silent)])
    assert not alike(alert(kind="data_health", metrics=(), labels={"check": "still"}, started_at=NOW + 1000), [remembered(silent)])
