"""Verdicts in; a history and messages out, without Kafka."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import SecretStr

from service.alerts.in_process import AlertManager
from service.alerts.lifecycle.episodes import Episodes
from service.alerts.notify.dispatcher import NotificationService
from service.alerts.notify.journal import Journal
from service.alerts.receivers.webhook import WebhookNotifier
from service.clock import SystemClock
from service.domain import Alert, Status
from service.errors import StoreUnavailable
from service.settings import EpisodeSettings, NotificationSettings, RouteSettings, WebhookReceiver
from tests.alerts.makers import drawn
from tests.alerts.memory_store import MemoryAlertStore
from tests.alerts.servers import HANG, Behaviour, HttpReceiver, http_receiver


def telling(server: HttpReceiver) -> NotificationService:
    receiver = WebhookReceiver(name="hook", url=SecretStr(server.url), allow_http=True)
    settings = NotificationSettings(receivers=[receiver], routes=[RouteSettings(receivers=["hook"], group_interval_seconds=0.1)])
    return NotificationService(
        settings,
        {"hook": WebhookNotifier(receiver)},
        journal=Journal(),
        clock=SystemClock(),
        on_outcome=lambda *_: None,
        retry_wait=(0.01, 0.05),
    )


class Away(MemoryAlertStore):
    """Takes nothing the first ``times`` times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    async def write(self, alerts: Sequence[Alert]) -> None:
        if self.times:
            self.times -= 1
            raise StoreUnavailable("away")
        await super().write(alerts)


async def test_verdicts_become_a_history_and_messages() -> None:
    async with http_receiver() as server:
        store = MemoryAlertStore()
        manager = AlertManager(Episodes(EpisodeSettings(), "abc"), store, telling(server))
        await manager.start()
        emitted = await manager.handle(drawn("...ww"))
        assert await manager.drain()
        emitted += await manager.handle(drawn("     ......"))
        await manager.close()
        assert [t.action for t in emitted] == ["opened", "fired", "resolved"]
        assert await store.events(emitted[0].alert_id) == emitted
        assert [r.json["alerts"][0]["status"] for r in server.requests] == ["firing", "resolved"]


async def test_people_are_told_while_the_store_is_away_and_the_history_is_whole_after() -> None:
    async with http_receiver() as server:
        store = Away(2)
        manager = AlertManager(Episodes(EpisodeSettings()), store, telling(server))
        await manager.start()
        await manager.handle(drawn("...c"))
        await manager.close()
        assert len(server.requests) == 1
        assert [kept.status for kept in await store.alerts()] == [Status.FIRING]


async def test_a_dead_receiver_does_not_keep_alerts_from_the_store() -> None:
    async with http_receiver(otherwise=HANG) as server:
        store = MemoryAlertStore()
        manager = AlertManager(Episodes(EpisodeSettings()), store, telling(server))
        await manager.start()
        await manager.handle(drawn("...c"))
        assert not await manager.drain(0.5)
        assert len(await store.alerts()) == 1
        server.otherwise = Behaviour()
        server.release()
        await manager.close()
        assert len(server.requests) == 2


async def test_neither_store_nor_receivers_are_needed() -> None:
    manager = AlertManager(Episodes(EpisodeSettings()), None, None)
    await manager.start()
    assert [t.action for t in await manager.handle(drawn("...c"))] == ["opened", "fired"]
    await manager.close()
