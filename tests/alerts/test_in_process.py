"""Verdicts in; a history and messages out, without Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest
import structlog
from pydantic import SecretStr

from service.alerts import in_process
from service.alerts.history.base import AlertStore
from service.alerts.in_process import AlertManager
from service.alerts.lifecycle.episodes import Episodes
from service.alerts.notify.dispatcher import NotificationService
from service.alerts.notify.journal import Journal
from service.alerts.receivers.webhook import WebhookNotifier
from service.clock import SystemClock
from service.domain import Alert, MetricShare, Status
from service.errors import ConfigError, StoreUnavailable
from service.settings import EpisodeSettings, NotificationSettings, RouteSettings, WebhookReceiver
from tests.alerts.makers import BORN, drawn, life
from tests.alerts.memory_store import MemoryAlertStore
from tests.alerts.servers import HANG, Behaviour, HttpReceiver, http_receiver


def manager(store: AlertStore | None = None, server: HttpReceiver | None = None) -> AlertManager:
    return AlertManager(
        Episodes(EpisodeSettings(), "abc"),
        clock=SystemClock(),
        make_store=None if store is None else lambda: store,
        make_notifications=None if server is None else notifying(server),
    )


def notifying(server: HttpReceiver) -> Callable[[Journal], NotificationService]:
    receiver = WebhookReceiver(name="hook", url=SecretStr(server.url), allow_http=True)
    settings = NotificationSettings(receivers=[receiver], routes=[RouteSettings(receivers=["hook"], group_interval_seconds=0.1)])
    return lambda journal: NotificationService(
        settings,
        {"hook": WebhookNotifier(receiver)},
        journal=journal,
        clock=SystemClock(),
        on_outcome=lambda *_: None,
        retry_wait=(0.01, 0.05),
    )


class Away(MemoryAlertStore):
    """Takes nothing while ``away``, and nothing the first ``times`` times."""

    def __init__(self, times: int = 0, problem: Exception | None = None) -> None:
        super().__init__()
        self.times = times
        self.away = False
        self.problem = problem or StoreUnavailable("away")

    async def write(self, alerts: Sequence[Alert]) -> None:
        if self.away or self.times:
            self.times = max(0, self.times - 1)
            raise self.problem
        await super().write(alerts)


async def test_verdicts_become_a_history_and_messages() -> None:
    async with http_receiver() as server:
        store = MemoryAlertStore()
        one = manager(store, server)
        await one.start()
        emitted = one.handle(drawn("...ww"))
        assert await one.drain()
        emitted += one.handle(drawn("     ......"))
        await one.close()
        assert [t.action for t in emitted] == ["opened", "fired", "resolved"]
        assert await store.events(emitted[0].alert_id) == emitted
        assert [r.json["alerts"][0]["status"] for r in server.requests] == ["firing", "resolved"]


async def test_a_message_of_the_next_stream_says_when_something_like_it_happened_in_the_one_before() -> None:
    async with http_receiver() as server:
        one = manager(server=server)
        await one.start()
        one.handle(drawn("...c......"))
        await one.close()
        await one.start()
        made = one._notifications
        assert made is not None
        (again, *_) = life(started_at=(BORN + 5000) * 1000, metrics=(MetricShare("cpu", 0.8, 97.0, 40.0, 2.0, ()),))
        last, count = made._facts._earlier.of(again)
        await one.close()
    assert last is not None
    assert (last.ended_at, count) == (last.started_at + 10_000, 1)


@pytest.mark.parametrize(
    "problem", [StoreUnavailable("away"), ConfigError("refuses these credentials (401)"), TypeError("a mistake of ours")]
)
async def test_receivers_are_notified_while_the_store_is_away_and_the_history_is_whole_after(problem: Exception) -> None:
    async with http_receiver() as server:
        store = Away(2, problem)
        one = manager(store, server)
        await one.start()
        with structlog.testing.capture_logs() as logs:
            one.handle(drawn("...c"))
            await one.close()
        assert len(server.requests) == 1
        assert [kept.status for kept in await store.alerts()] == [Status.FIRING]
        assert sum(str(problem) in str(log) for log in logs) == 1


async def test_what_is_not_stored_is_logged_and_stored_by_the_next_start() -> None:
    store = Away()
    one = manager(store)
    await one.start()
    store.away = True
    emitted = one.handle(drawn("...c"))
    with structlog.testing.capture_logs() as logs:
        await one.close(0.1)
    assert [log["not_stored"] for log in logs if "not_stored" in log] == [len(emitted)]
    store.away = False
    await one.start()
    await one.close()
    assert await store.events(emitted[0].alert_id) == emitted


async def test_transitions_that_wait_are_bounded_and_what_is_lost_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_process, "MAX_UNSTORED", 3)
    store = Away()
    one = manager(store)
    await one.start()
    store.away = True
    emitted = one.handle(drawn("...ww", entity="a")) + one.handle(drawn("...ww", entity="b"))
    with structlog.testing.capture_logs() as logs:
        await one.close(0.1)
    assert [(log["not_stored"], log["lost"]) for log in logs if "lost" in log] == [(3, len(emitted) - 3)]


async def test_a_store_that_refuses_us_at_the_start_is_an_error_and_nothing_runs() -> None:
    class Refusing(MemoryAlertStore):
        closed = False

        async def install_templates(self) -> None:
            raise ConfigError("refuses these credentials (401)")

        async def close(self) -> None:
            self.closed = True

    async with http_receiver() as server:
        store = Refusing()
        before = asyncio.all_tasks()
        with pytest.raises(ConfigError, match="refuses these credentials"):
            await manager(store, server).start()
        assert store.closed
        assert asyncio.all_tasks() == before


async def test_an_alert_told_before_a_close_is_resolved_after_the_next_start() -> None:
    async with http_receiver() as server:
        one = manager(server=server)
        await one.start()
        one.handle(drawn("...ww"))
        await one.close()
        await one.start()
        one.handle(drawn("     ......"))
        await one.close()
        assert [r.json["alerts"][0]["status"] for r in server.requests] == ["firing", "resolved"]


async def test_a_second_start_joins_the_first_and_the_last_close_releases() -> None:
    closed = []

    class Counting(MemoryAlertStore):
        async def close(self) -> None:
            closed.append(True)

    one = manager(store := Counting())
    await asyncio.gather(one.start(), one.start())
    await one.close()
    assert not closed
    emitted = one.handle(drawn("...c"))
    await one.close()
    assert closed == [True]
    assert await store.events(emitted[0].alert_id) == emitted


async def test_a_dead_receiver_does_not_keep_alerts_from_the_store() -> None:
    async with http_receiver(otherwise=HANG) as server:
        store = MemoryAlertStore()
        one = manager(store, server)
        await one.start()
        one.handle(drawn("...c"))
        assert not await one.drain(0.5)
        assert len(await store.alerts()) == 1
        server.otherwise = Behaviour()
        server.release()
        await one.close()
        assert len(server.requests) == 2


async def test_neither_store_nor_receivers_are_needed() -> None:
    one = manager()
    await one.start()
    assert [t.action for t in one.handle(drawn("...c"))] == ["opened", "fired"]
    await one.close()
