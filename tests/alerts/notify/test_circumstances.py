"""The circumstances of an alert on their way to a real receiver: the same at every try, and never waited for."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence

import msgspec
import pytest
from pydantic import SecretStr

from service.alerts.control.commands import Acknowledge, Mark
from service.alerts.history.base import PastAlerts
from service.alerts.history.elasticsearch import ElasticsearchAlertStore
from service.alerts.history.reader import AlertHistory
from service.alerts.messages.circumstances import NOTHING_KNOWN, ByAlert
from service.alerts.notify import earlier_alerts
from service.alerts.notify.dispatcher import NotificationService
from service.alerts.notify.group_records import groups_of, records_of
from service.alerts.notify.grouping import Group
from service.alerts.notify.journal import Journal
from service.alerts.receivers.webhook import WebhookNotifier
from service.clock import SystemClock
from service.domain import Alert, Severity
from service.settings import ElasticsearchSettings, LinkSettings, NotificationSettings, RouteSettings, WebhookReceiver
from tests.alerts.makers import BORN, alert, life
from tests.alerts.servers import Behaviour, HttpReceiver, http_receiver

BUSY = Behaviour(503)


class Recording(WebhookNotifier):
    """The webhook, keeping the circumstances of each try."""

    def __init__(self, receiver: WebhookReceiver) -> None:
        super().__init__(receiver)
        self.tries: list[tuple[str, ByAlert]] = []

    async def send(self, alerts: Sequence[Alert], *, key: str, circumstances: ByAlert = NOTHING_KNOWN) -> None:
        self.tries.append((key, circumstances))
        await super().send(alerts, key=key, circumstances=circumstances)


def notifying(
    server: HttpReceiver, journal: Journal | None = None, past_alerts: Callable[[], PastAlerts] | None = None
) -> tuple[NotificationService, Recording]:
    receiver = WebhookReceiver(name="hook", url=SecretStr(server.url), allow_http=True)
    settings = NotificationSettings(
        receivers=[receiver],
        routes=[RouteSettings(receivers=["hook"], group_wait_seconds=0.2, group_interval_seconds=0.2)],
        links=[LinkSettings(match={"rack": "r2"}, runbook="https://wiki.example/{rack}", owner="db team")],
        time_zone="Europe/Berlin",
    )
    hook = Recording(receiver)
    service = NotificationService(
        settings,
        {"hook": hook},
        journal=journal or Journal(),
        clock=SystemClock(),
        on_outcome=lambda *_: None,
        past_alerts=past_alerts,
        retry_wait=(0.05, 0.2),
    )
    return service, hook


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not done():
            await asyncio.sleep(0.02)


def racked(entity: str, seconds: int) -> list[Alert]:
    return life(entity, labels={"rack": "r2"}, started_at=(BORN + seconds) * 1000)[:2]


async def test_every_try_says_the_same_also_by_the_next_process() -> None:
    records: dict[bytes, bytes] = {}
    held: dict[str, Group] = {}

    async def record() -> bool:
        for key, group in journal.take_changes().groups.items():
            for name, value in records_of(key, held.get(key), group).items():
                records.pop(name, None) if value is None else records.__setitem__(name, value)
            if group is None:
                held.pop(key, None)
            else:
                held[key] = group
        return True

    async with http_receiver(otherwise=BUSY) as server:
        journal = Journal()
        journal.record_with(record)
        first, before = notifying(server, journal)
        first.accept([(each, -1) for each in (*racked("db-8", -60), *racked("db-7", 0))])
        await first.start()
        await until(lambda: len(before.tries) >= 2)
        first.accept([(each, -1) for each in racked("db-9", 10)])  # found too late for this message
        await until(lambda: len(before.tries) >= 4)
        first.request_stop()
        await first.close()

        server.otherwise = Behaviour()
        second, after = notifying(server)
        second.restore(groups_of(records))
        await second.start()
        await until(lambda: bool(after.tries))
        await second.close()

    tries = [*before.tries, after.tries[0]]
    assert all(each == tries[0] for each in tries[1:])
    own = tries[0][1][alert("db-7").alert_id]
    assert [(each.entity, each.started_at) for each in own.neighbours] == [("db-8", (BORN - 60) * 1000)]
    assert (own.shared, own.runbook, own.owner) == ("rack=r2: 2 of 2 unusual hosts", "https://wiki.example/r2", "db team")
    assert (own.zone, own.notified_severity) == ("Europe/Berlin", None)


@pytest.mark.elasticsearch
async def test_the_last_time_comes_from_the_history_with_its_note_and_mark(elasticsearch_url: str) -> None:
    settings = ElasticsearchSettings(url=elasticsearch_url, index_prefix=f"test-{uuid.uuid4().hex[:8]}")
    store = ElasticsearchAlertStore(settings)
    await store.install_templates()
    then, longer_ago, other = (life(started_at=(BORN - days * 86_400) * 1000) for days in (9, 20, 3))
    await store.write([*then, *longer_ago])
    await store.write([msgspec.structs.replace(each, metrics=()) for each in other])  # nothing in common with today's
    await store.write(life("db-77", started_at=(BORN - 600) * 1000))
    of, day = then[0].alert_id, 86_400_000
    noted = Acknowledge(id="a", alert_id=of, entity="db-7", author="Ada", at=BORN * 1000 - 9 * day, note="the nightly backup")
    judged = Mark(id="m", alert_id=of, entity="db-7", author="Bo", at=BORN * 1000 - 8 * day, verdict="false", metrics=("cpu",))
    await store.write_commands([noted, judged])
    await store.close()
    history = AlertHistory(settings)
    await history._client.refresh([f"{settings.index_prefix}-*"])
    found = await history.past_alerts("db-7", BORN * 1000)
    await history.close()
    assert [each.started_at // 1000 - BORN for each in found] == [-3 * 86_400, -9 * 86_400, -20 * 86_400]

    async with http_receiver() as server:
        service, hook = notifying(server, past_alerts=lambda: AlertHistory(settings))
        opened, fired, _ = life()
        await service.start()
        service.accept([(opened, -1)])
        await until(lambda: "db-7" in service._earlier._looked_up)
        service.accept([(fired, -1)])
        assert await service.drained(30)
        await service.close()
    known = hook.tries[0][1][fired.alert_id]
    assert known.earlier is not None
    assert (known.earlier.alert_id, known.earlier_count) == (then[0].alert_id, 2)
    assert (known.earlier.note, known.earlier.author, known.earlier.mark) == ("the nightly backup", "Ada", "false alarm")
    assert (known.earlier.severity, known.earlier.ended_at) == (Severity.CRITICAL, then[2].ended_at)


@pytest.mark.parametrize("trouble", ["hangs", "refuses", "cannot be reached"])
async def test_a_history_in_trouble_delays_no_message(trouble: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(earlier_alerts, "LOOK_UP_SECONDS", 3600.0)
    behaviour = Behaviour(kind="hang") if trouble == "hangs" else Behaviour(401)
    async with http_receiver(otherwise=behaviour) as elasticsearch, http_receiver() as server:
        url = "http://127.0.0.1:9" if trouble == "cannot be reached" else elasticsearch.url.rpartition("/")[0]
        service, hook = notifying(server, past_alerts=lambda: AlertHistory(ElasticsearchSettings(url=url)))
        await service.start()
        service.accept([(each, -1) for each in life()[:2]])
        assert await service.drained(30)
        assert len(server.requests) == 1
        await service.close()
    assert hook.tries[0][1][alert().alert_id].earlier is None
