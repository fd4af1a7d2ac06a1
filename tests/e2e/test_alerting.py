"""The alert half on real Kafka and Elasticsearch, as `tidewatch run --only store --only notify` wires it: receivers that misbehave,
an Elasticsearch that is away, and a storm."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import msgspec
import pytest
from aiokafka import AIOKafkaProducer
from elasticsearch import AsyncElasticsearch

from service.alerts.history.reader import AlertHistory
from service.alerts.topics.transitions import encode_transition
from service.app import build_service
from service.clock import SystemClock
from service.demo.receivers import Answer, HttpReceiver, MailReceiver, Posted, Reply
from service.domain import Alert, Severity, Status
from service.local.processes import free_port
from service.runtime import run_parts
from service.settings import KafkaSettings, Settings, TopicSettings
from service.state.topics import create_topics
from tests.alerts.makers import alert
from tests.e2e.proxy import Proxy

pytestmark = [pytest.mark.kafka, pytest.mark.elasticsearch, pytest.mark.slow, pytest.mark.timeout(300)]

PATIENCE = 120.0
ENDED = ("sent", "refused", "gave_up", "handed_over")


def settings_for(kafka: str, elasticsearch: str, **notifications: Any) -> Settings:
    """Topics, indices and a port of one test's own."""
    name = f"alerting-{uuid4().hex[:8]}"
    topics = {each: f"{name}.{each}" for each, field in TopicSettings.model_fields.items() if field.annotation is str}
    return Settings(
        kafka={"bootstrap_servers": kafka, "group_prefix": name, "topics": topics},
        elasticsearch={"url": elasticsearch, "index_prefix": name, "request_timeout_seconds": 30},
        http={"port": free_port()},
        notifications=notifications,
    )


def webhook(name: str, server: HttpReceiver, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": "webhook", "url": f"{server.url}hooks/s3cret-{name}", "allow_http": True, **more}


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[None]:
    """The store and notify parts, and what serves /metrics."""
    stop = asyncio.Event()
    task = asyncio.create_task(run_parts(build_service(settings, ["store", "notify"]), stop))
    try:
        await until(lambda: ready(settings), task)
        yield
    finally:
        stop.set()
        await task


async def until(holds: Any, task: asyncio.Task[None] | None = None) -> None:
    """Ask until it holds; the time is a limit for a test that hangs, not a measure."""
    async with asyncio.timeout(PATIENCE):
        while not await holds():
            assert task is None or not task.done(), "the service ended"
            await asyncio.sleep(0.2)


async def asked(settings: Settings, path: str) -> httpx.Response | None:
    async with httpx.AsyncClient() as client:
        try:
            return await client.get(f"http://127.0.0.1:{settings.http.port}{path}", timeout=30)
        except httpx.TransportError:
            return None


async def ready(settings: Settings) -> bool:
    answer = await asked(settings, "/readyz")
    return answer is not None and answer.status_code == 200


async def table(settings: Settings) -> dict[str, Counter[str]]:
    """The notifications of /metrics: by receiver, how many of each outcome, and ``unsettled``."""
    answer = await asked(settings, "/metrics")
    assert answer is not None
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for line in answer.text.splitlines():
        name, _, rest = line.partition("{")
        if name not in ("tidewatch_notifications_total", "tidewatch_notifications_unsettled"):
            continue
        labels, _, value = rest.partition("} ")
        pairs = dict(pair.split("=") for pair in labels.replace('"', "").split(","))
        found[pairs["receiver"]][pairs.get("outcome", "unsettled")] = int(float(value))
    return found


def adds_up(counted: Mapping[str, int]) -> bool:
    """Every message that became due is sent, given up, refused, left to another notifier, or still on its way."""
    return counted["due"] == sum(counted[each] for each in (*ENDED, "unsettled"))


async def publish(kafka: KafkaSettings, alerts: Sequence[Alert]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers, linger_ms=5)
    await producer.start()
    for each in alerts:
        key, value = encode_transition(each)
        await producer.send(kafka.topics.alerts, value, key=key, partition=0)
    await producer.stop()


async def documents(url: str, settings: Settings, kind: str) -> list[dict[str, Any]]:
    """Every document of one kind, asked of the server itself."""
    client = AsyncElasticsearch(url, request_timeout=30)
    index = f"{settings.elasticsearch.index_prefix}-{kind}-2*"
    try:
        await client.indices.refresh(index=index)
        answer = await client.search(index=index, size=10_000, track_total_hits=True)
        assert answer["hits"]["total"]["value"] <= 10_000
        return [hit["_source"] for hit in answer["hits"]["hits"]]
    finally:
        await client.close()


class World:
    """Alerts of twelve hosts in three racks that fire, get worse and end, as the scoring part would emit them."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._begun = SystemClock().now_ms()
        self.now: dict[str, Alert] = {}
        self.emitted: list[Alert] = []

    def wave(self, *, ending: bool = False) -> list[Alert]:
        """The next transitions: of some hosts, or at last the end of all that is open."""
        made = []
        for number in range(12):
            entity = f"host-{number}"
            held = self.now.get(entity)
            if ending and held is None:
                continue
            if not ending and self._random.random() < 0.5:
                continue
            made.append(self._next(entity, f"rack-{number % 3}", held, ending))
        self.emitted += made
        return made

    def _next(self, entity: str, rack: str, held: Alert | None, ending: bool) -> Alert:
        if held is None:
            made = alert(
                entity, severity=Severity.WARNING, labels={"rack": rack}, started_at=self._begun + len(self.emitted) * 1000
            )
        elif ending or self._random.random() < 0.4:
            made = msgspec.structs.replace(
                held, seq=held.seq + 1, status=Status.RESOLVED, action="resolved", ended_at=held.started_at + 90_000
            )
        else:
            worst = Severity.CRITICAL
            made = msgspec.structs.replace(held, seq=held.seq + 1, severity=worst, peak_severity=worst, action="raised")
        if made.status is Status.RESOLVED:
            self.now.pop(entity, None)
        else:
            self.now[entity] = made
        return made


def key_of(posted: Posted) -> str:
    return {name.lower(): value for name, value in posted.headers.items()}["idempotency-key"]


def in_order_and_once(accepted: Sequence[Posted], world: World) -> None:
    """Every alert's states in order, its end once and last; no message twice; groups apart."""
    keys = [key_of(posted) for posted in accepted]
    assert len(keys) == len(set(keys))
    sent: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for posted in accepted:
        alerts = posted.json()["alerts"]
        assert len({each["labels"]["rack"] for each in alerts}) == 1
        for each in alerts:
            sent[each["alert_id"]].append((each["seq"], each["status"]))
    assert set(sent) == {each.alert_id for each in world.emitted}
    for states in sent.values():
        assert states == sorted(states)
        assert [status for _, status in states].index("resolved") == len(states) - 1


async def test_receivers_that_misbehave_get_everything_once_in_order_and_the_table_adds_up(
    kafka_servers: str, elasticsearch_url: str
) -> None:
    async with (
        HttpReceiver() as busy,
        HttpReceiver() as failing,
        HttpReceiver() as hanging,
        HttpReceiver() as dropping,
        HttpReceiver() as gone,
        HttpReceiver() as dead,
        MailReceiver() as inbox,
    ):
        servers = {"busy": busy, "failing": failing, "hanging": hanging, "dropping": dropping}
        for server, bad in zip(
            servers.values(), (Answer(429, retry_after=1), Answer(500), Answer(does="hang"), Answer(does="drop")), strict=True
        ):
            server.plan_each(bad, bad)  # and then takes it; the tries of different groups interleave
        gone.plan(*[Answer(410)] * 200)
        dead.plan(*[Answer(500)] * 2000)
        inbox.plan(Reply("451 later"), Reply(), Reply(does="drop"))
        receivers = [webhook(name, server) for name, server in (servers | {"gone": gone, "dead": dead}).items()]
        mail = {"name": "mail", "type": "email", "to": ["oncall@example.org"], "tls": "none", "port": inbox.port}
        everyone = [*(each["name"] for each in receivers), "mail"]
        route = {"receivers": everyone, "group_by": ["rack"], "group_wait_seconds": 0.3, "group_interval_seconds": 1.0}
        settings = settings_for(
            kafka_servers,
            elasticsearch_url,
            receivers=[*receivers, mail],
            routes=[route],
            attempt_timeout_seconds=1.0,
            deadline_seconds=12.0,
        )
        await create_topics(settings.kafka)
        world = World(seed=5)
        async with running(settings):
            for _ in range(6):
                await publish(settings.kafka, world.wave())
                await asyncio.sleep(0.7)
            await publish(settings.kafka, world.wave(ending=True))
            over = {each.alert_id for each in world.emitted}

            def settled_all(server: HttpReceiver) -> bool:
                ended = {a["alert_id"] for posted in server.accepted for a in posted.json()["alerts"] if a["status"] == "resolved"}
                return ended == over

            async def settled() -> bool:
                counted = await table(settings)
                assert all(adds_up(each) for each in counted.values()), counted
                quiet = not any(counted[name]["unsettled"] for name in (*servers, "mail", "gone"))
                return quiet and all(settled_all(server) for server in servers.values()) and counted["dead"]["gave_up"] > 0

            await until(settled)
            counted = await table(settings)
            for name, server in servers.items():
                in_order_and_once(server.accepted, world)
                assert counted[name]["sent"] == len(server.accepted)
                # a try that timed out before it reached the server is one that the server has not seen
                assert counted[name]["retried"] >= len(server.attempts) - len(server.accepted)
                assert counted[name]["retried"] > 0
                assert counted[name]["gave_up"] == 0
                bodies = {key_of(each): each.body for each in server.attempts}
                assert all(bodies[key_of(each)] == each.body for each in server.attempts)  # every try sent the same
            assert counted["mail"]["sent"] == len(inbox.accepted)
            assert len({str(mail.message["Message-ID"]) for mail in inbox.accepted}) == len(inbox.accepted)
            assert counted["gone"]["refused"] == len(gone.attempts) > 0
            assert (counted["gone"]["sent"], counted["dead"]["sent"]) == (0, 0)

            history = AlertHistory(settings.elasticsearch)
            tried = {(name, key): n for name, server in servers.items() for key, n in Counter(map(key_of, server.attempts)).items()}
            tried |= {("gone", key_of(posted)): 1 for posted in gone.attempts}

            async def stored() -> bool:
                found = await documents(elasticsearch_url, settings, "notifications")
                at = {(d["tidewatch"]["receiver"], d["event"]["id"]): d["tidewatch"] for d in found}
                return all(
                    key in at and at[key]["attempts"] == n and at[key]["state"] == ("refused" if key[0] == "gone" else "sent")
                    for key, n in tried.items()
                )

            await until(stored)
            shown = await history.show(world.emitted[0].alert_id)
            await history.close()
            assert shown is not None
            assert {each["tidewatch"]["receiver"] for each in shown.notifications} == set(everyone)
            assert "s3cret" not in str(await documents(elasticsearch_url, settings, "notifications"))


async def test_while_elasticsearch_is_away_operators_are_paged_and_the_history_is_complete_when_it_is_back(
    kafka_servers: str, elasticsearch_url: str
) -> None:
    where = urlsplit(elasticsearch_url)
    async with Proxy(where.hostname or "", where.port or 0) as proxy, HttpReceiver() as pager:
        route = {"receivers": ["pager"], "group_by": ["rack"], "group_wait_seconds": 0.2, "group_interval_seconds": 0.5}
        settings = settings_for(kafka_servers, proxy.url, receivers=[webhook("pager", pager)], routes=[route])
        await create_topics(settings.kafka)
        world = World(seed=9)
        async with running(settings):
            await publish(settings.kafka, world.wave())

            async def some_stored() -> bool:
                return len(await documents(elasticsearch_url, settings, "alerts")) == len(world.now)

            await until(some_stored)
            before = len(world.emitted)
            await proxy.cut()
            for _ in range(3):
                await publish(settings.kafka, world.wave())
                await asyncio.sleep(0.5)
            await publish(settings.kafka, world.wave(ending=True))
            over = {each.alert_id for each in world.emitted}

            async def all_settled() -> bool:
                ended = {a["alert_id"] for posted in pager.accepted for a in posted.json()["alerts"] if a["status"] == "resolved"}
                return ended == over

            await until(all_settled)
            in_order_and_once(pager.accepted, world)

            async def said_so() -> bool:
                answer = await asked(settings, "/readyz")
                parts = {} if answer is None else answer.json()["parts"]
                assert parts["notify"]["ready"]
                return answer is not None and answer.status_code == 503 and not parts["store"]["ready"]

            await until(said_so)
            assert len(await documents(elasticsearch_url, settings, "alert-events")) == before

            await proxy.restore()
            newest = {each.alert_id: each.seq for each in world.emitted}
            keys = {key_of(posted) for posted in pager.accepted}

            async def complete() -> bool:
                stored = await documents(elasticsearch_url, settings, "notifications")
                return await ready(settings) and {d["event"]["id"] for d in stored if d["tidewatch"]["state"] == "sent"} == keys

            await until(complete)

            async def every_transition() -> bool:
                return len(await documents(elasticsearch_url, settings, "alert-events")) >= len(world.emitted)

            await until(every_transition)
            kept = await documents(elasticsearch_url, settings, "alerts")
            assert {each["tidewatch"]["alert_id"]: each["event"]["sequence"] for each in kept} == newest
            events = await documents(elasticsearch_url, settings, "alert-events")
            assert Counter((e["event"]["id"], e["event"]["sequence"]) for e in events) == Counter(
                (each.alert_id, each.seq) for each in world.emitted
            )


STORM = 10_000
HANDFUL = 10


async def test_a_storm_sends_a_handful_of_messages_and_stores_every_alert(kafka_servers: str, elasticsearch_url: str) -> None:
    """Ten thousand alerts as fast as Kafka takes them. How many messages that makes depends a little on how fast the machine
    reads them: the waits are 1, 1, 2, 4, 8 and 16 seconds, then 30."""
    async with HttpReceiver() as slack, HttpReceiver() as hook, MailReceiver() as inbox:
        receivers = [
            {"name": "slack", "type": "slack", "url": slack.url, "allow_http": True},
            webhook("hook", hook),
            {"name": "mail", "type": "email", "to": ["oncall@example.org"], "tls": "none", "port": inbox.port},
        ]
        route = {"receivers": ["slack", "hook", "mail"], "group_wait_seconds": 1, "group_interval_seconds": 30}
        settings = settings_for(kafka_servers, elasticsearch_url, receivers=receivers, routes=[route])
        await create_topics(settings.kafka)
        begun = SystemClock().now_ms() // 1000 * 1000
        severities = (Severity.CRITICAL, Severity.WARNING, Severity.INFO)
        storm = [alert(f"host-{n}", severity=severities[n % 3], started_at=begun + n) for n in range(STORM)]
        async with running(settings):
            await publish(settings.kafka, storm)

            async def all_settled() -> bool:
                return sum(posted.json()["count"] for posted in hook.accepted[-1:]) == STORM and not any(
                    each["unsettled"] for each in (await table(settings)).values()
                )

            async def all_stored() -> bool:
                client = AsyncElasticsearch(elasticsearch_url, request_timeout=30)
                index = f"{settings.elasticsearch.index_prefix}-alerts-2*"
                await client.indices.refresh(index=index)
                count = (await client.count(index=index))["count"]
                await client.close()
                return bool(count == STORM)

            await until(all_stored)
            await until(all_settled)
            counted = await table(settings)
            assert all(adds_up(each) for each in counted.values())
            for name, messages in (("slack", slack.accepted), ("hook", hook.accepted), ("mail", inbox.accepted)):
                assert counted[name]["sent"] == len(messages)
                assert 1 <= len(messages) <= HANDFUL, f"{len(messages)} messages to {name}"
                assert not counted[name]["dropped"]
            stored = await documents(elasticsearch_url, settings, "notifications")
            assert max(each["tidewatch"]["alerts"] for each in stored) == STORM
