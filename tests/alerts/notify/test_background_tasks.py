"""Each background task of the notifier, made to fail: logged once with its cause, readiness red, started again, nothing doubled."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
import structlog

from service.alerts.data_health.alerts import DataHealth
from service.alerts.messages.circumstances import NOTHING_KNOWN, ByAlert
from service.alerts.notify.data_watch import DataWatch
from service.alerts.notify.dispatcher import NotificationService
from service.alerts.notify.journal import Journal
from service.alerts.notify.part import NotifyPart
from service.clock import SystemClock
from service.domain import Alert, DataSnapshot
from service.observability.health import Health
from service.settings import DataHealthSettings, KafkaSettings, NotificationSettings, RouteSettings, WebhookReceiver
from service.state.notify_journal import NotifyJournal
from tests.alerts.makers import alert
from tests.alerts.notify.simulation import Inbox
from tests.alerts.notify.test_part import kafka as _kafka
from tests.observability.test_tasks import GatedClock

kafka = _kafka


class Direct:
    """A notifier that hands messages to an inbox."""

    def __init__(self, inbox: Inbox) -> None:
        self.name = inbox.name
        self._inbox = inbox

    async def send(self, alerts: Sequence[Alert], *, key: str, circumstances: ByAlert = NOTHING_KNOWN) -> None:
        self._inbox.take(alerts, key)

    async def close(self) -> None:
        pass


async def until(holds: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0)


@pytest.mark.parametrize("failing", [1, 2])  # the record before the message is sent, and the one after
async def test_a_queue_that_fails_is_started_again_and_sends_each_message_once(failing: int) -> None:
    clock = GatedClock(1_000_000)
    health = Health(clock)
    health.beat("notify", ready=True)
    inbox, journal, outcomes = Inbox("a", clock), Journal(), Counter[str]()
    records = 0

    async def record() -> bool:
        nonlocal records
        records += 1
        if records == failing:
            raise OSError("the journal is gone")
        return True

    journal.record_with(record)
    service = NotificationService(
        NotificationSettings(receivers=[WebhookReceiver(name="a")], routes=[RouteSettings(receivers=["a"], group_wait_seconds=0)]),
        {"a": Direct(inbox)},
        journal=journal,
        clock=clock,
        on_outcome=lambda _, outcome: outcomes.update([outcome]),
        health=health,
    )
    with structlog.testing.capture_logs() as logs:
        await service.start()
        service.accept([(alert(), -1)])
        await until(lambda: not health.ready())
        detail = str(health.describe()["notify"]["detail"])
        assert "receiver a" in detail
        assert "the journal is gone" in detail
        clock.advance(1)
        await until(lambda: outcomes["sent"] == 1)
        for _ in range(20):
            await asyncio.sleep(0)
        clock.advance(2)
        await until(health.ready)
    await service.close()
    ended = [each for each in logs if each["event"].startswith("background task ended")]
    assert [each["cause"] for each in ended] == ["OSError: the journal is gone"]
    assert (len(inbox.messages), inbox.doubled) == (1, 0)
    assert (outcomes["due"], outcomes["sent"]) == (1, 1)


class Monitor:
    """Fails at its first look."""

    def __init__(self) -> None:
        self.looks = 0

    async def look(self) -> DataSnapshot:
        self.looks += 1
        if self.looks == 1:
            raise ValueError("an answer nobody expected")
        return DataSnapshot(lag={0: 0})

    async def close(self) -> None:
        pass


@pytest.mark.kafka
async def test_the_look_at_the_data_that_fails_is_started_again(kafka: KafkaSettings) -> None:
    clock = SystemClock()
    health, monitor, journal = Health(clock), Monitor(), Journal()
    service = NotificationService(NotificationSettings(), {}, journal=journal, clock=clock, on_outcome=lambda *_: None)
    findings, used = DataHealth(DataHealthSettings(check_every_seconds=0.05), kafka.topics.metrics), list[DataSnapshot]()
    watch = DataWatch(findings, monitor, clock=clock, on_look=used.append)
    part = NotifyPart(kafka, service, journal, NotifyJournal(kafka), health=health, clock=clock, watch=watch)
    with structlog.testing.capture_logs() as logs:
        await part.start()
        work = asyncio.create_task(part.run())
        async with asyncio.timeout(60):
            while "an answer nobody expected" not in str(health.describe()["notify"]["detail"]):
                await asyncio.sleep(0.01)
            assert not health.ready()
            while not health.ready() or not used:  # others are given what was seen
                await asyncio.sleep(0.01)
    part.request_stop()
    await work
    await part.close()
    ended = [each for each in logs if each["event"].startswith("background task ended")]
    assert [each["cause"] for each in ended] == ["ValueError: an answer nobody expected"]
