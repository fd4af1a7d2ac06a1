"""The REST API on a real Elasticsearch and Kafka, over real HTTP: what it returns, what it writes, and which callers it accepts."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.alerts.control.commands import Acknowledge, AddSilence, Command, ExpireSilence, Mark
from service.alerts.control.topic import ControlReader
from service.alerts.history.elasticsearch import ElasticsearchAlertStore
from service.api.part import ApiPart
from service.clock import SystemClock
from service.domain import Severity
from service.settings import KafkaSettings, NotificationSettings, Settings
from service.state.topics import create_topics
from tests.alerts.makers import alert, background_tasks, life

pytestmark = [pytest.mark.kafka, pytest.mark.elasticsearch]

TOKEN = "correct-horse"
HOUR_MS = 3_600_000


@pytest.fixture
async def settings(kafka_servers: str, elasticsearch_url: str) -> Settings:
    name = f"api-{uuid.uuid4().hex[:8]}"
    topics = {each: f"{name}.{each}" for each in ("metrics", "alerts", "control", "notifications", "dead_letter")}
    made = Settings(
        kafka={"bootstrap_servers": kafka_servers, "group_prefix": name, "topics": topics},
        elasticsearch={"url": elasticsearch_url, "index_prefix": name},
        api={"port": 0, "token": TOKEN},
    )
    await create_topics(made.kafka)
    store = ElasticsearchAlertStore(made.elasticsearch)
    await store.install_templates()
    now = SystemClock().now_ms()
    for hours in range(5, 0, -1):
        await store.write(life(f"db-{hours}", Severity.WARNING, started_at=now - hours * HOUR_MS))
    await store.write([alert("web-1", started_at=now - 30 * 60_000)])
    await store._client.refresh([f"{name}-*"])
    await store.close()
    return made


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    part = ApiPart(settings)
    await part.start()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{part.port}/api/v1", timeout=60) as client:
        yield client
    part.request_stop()
    await part.close()


WITH_TOKEN = {"Authorization": f"Bearer {TOKEN}"}


async def commands(kafka: KafkaSettings) -> list[Command]:
    read: list[Command] = []
    reader = ControlReader(kafka, read.extend, background_tasks())
    await reader.start()
    await reader.close()
    return read


def routes(description: Any) -> list[tuple[str, str]]:
    """(method, path) of every route, with identifiers filled in."""
    filled = {"{alert_id}": "0" * 32, "{silence_id}": "nothing"}
    found = []
    for template, methods in description["paths"].items():
        path = template.removeprefix("/api/v1")
        for name, value in filled.items():
            path = path.replace(name, value)
        found += [(method.upper(), path) for method in methods]
    return found


BODIES = {"author": "Ada", "verdict": "true"}
SILENCE = {"match": {"entity": "db-*"}, "seconds": 3600, "author": "Ada", "comment": "disks"}


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}, {"Authorization": f"Basic {TOKEN}"}]
)
async def test_nothing_but_health_is_served_without_the_token(
    api: httpx.AsyncClient, settings: Settings, headers: dict[str, str]
) -> None:
    described = (await api.get("/openapi.json")).json()
    walked = routes(described)
    assert {method for method, _ in walked} == {"GET", "POST"}
    assert len([method for method, _ in walked if method == "POST"]) == 4
    for method, path in walked:
        body = None if method == "GET" else SILENCE if path == "/silences" else BODIES
        answer = await api.request(method, path, headers=headers, json=body)
        if path == "/health":
            assert answer.status_code == 200
            continue
        assert answer.status_code == 401, (method, path)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["www-authenticate"] == "Bearer"
    for method in ("PUT", "PATCH", "DELETE", "POST"):  # also where there is no route
        assert (await api.request(method, "/alerts", headers=headers)).status_code == 401
    assert await commands(settings.kafka) == []


async def test_without_a_token_in_the_settings_reading_is_open_and_nothing_can_be_written(settings: Settings) -> None:
    part = ApiPart(settings.model_copy(update={"api": settings.api.model_copy(update={"token": None})}))
    await part.start()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{part.port}/api/v1") as client:
        for method, path in routes((await client.get("/openapi.json")).json()):
            body = None if method == "GET" else SILENCE if path == "/silences" else BODIES
            answer = await client.request(method, path, json=body, headers=WITH_TOKEN)
            if method == "GET":
                assert answer.status_code in (200, 404), path
            else:
                assert answer.status_code == 403, path
                assert "api.token" in answer.json()["detail"]
    await part.close()
    assert await commands(settings.kafka) == []


async def test_alerts_are_listed_page_by_page_and_filtered(api: httpx.AsyncClient) -> None:
    api.headers.update(WITH_TOKEN)
    seen: list[str] = []
    after: str | None = None
    while True:
        page = (await api.get("/alerts", params={"limit": 2, **({"after": after} if after else {})})).json()
        seen += [each["tidewatch"]["entity"] for each in page["alerts"]]
        after = page["next"]
        if after is None:
            break
    assert seen == ["web-1", "db-1", "db-2", "db-3", "db-4", "db-5"]

    async def entities(**filters: Any) -> list[str]:
        answer = await api.get("/alerts", params=filters)
        assert answer.status_code == 200, answer.text
        return [each["tidewatch"]["entity"] for each in answer.json()["alerts"]]

    assert await entities(severity="critical") == ["web-1"]
    assert await entities(status="firing") == ["web-1"]
    assert await entities(entity="db-*", limit=2) == ["db-1", "db-2"]


async def test_transitions_are_listed_and_an_alert_is_shown(api: httpx.AsyncClient) -> None:
    api.headers.update(WITH_TOKEN)
    listed = (await api.get("/alerts", params={"entity": "db-3"})).json()["alerts"][0]
    alert_id = listed["tidewatch"]["alert_id"]
    shown = (await api.get(f"/alerts/{alert_id[:8]}")).json()
    assert shown["alert"] == listed
    assert [event["event"]["action"] for event in shown["events"]] == ["opened", "fired", "resolved"]
    events = (await api.get("/events", params={"alert_id": alert_id, "limit": 2})).json()
    assert [event["event"]["action"] for event in events["events"]] == ["resolved", "fired"]
    more = (await api.get("/events", params={"alert_id": alert_id, "limit": 2, "after": events["next"]})).json()
    assert [event["event"]["action"] for event in more["events"]] == ["opened"]
    fired = (await api.get("/events", params={"action": "fired"})).json()["events"]
    assert len(fired) == 6


async def test_what_operators_do_becomes_commands(api: httpx.AsyncClient, settings: Settings) -> None:
    api.headers.update(WITH_TOKEN)
    alert_id = (await api.get("/alerts", params={"entity": "web-1"})).json()["alerts"][0]["tidewatch"]["alert_id"]
    taken = await api.post(f"/alerts/{alert_id}/acknowledgement", json={"author": "Ada", "note": "on it"})
    assert (taken.status_code, taken.json()) == (202, {"alert_id": alert_id, "author": "Ada"})

    looked = (await api.get(f"/alerts/{alert_id}/judgement/preview", params={"entity": "*"})).json()
    assert (looked["looked_at"], len(looked["alerts"])) == (6, 6)
    judged = await api.post(f"/alerts/{alert_id}/judgement", json={"author": "Ada", "verdict": "false", "suppress": True})
    assert judged.status_code == 201
    back = await api.post(f"/alerts/{alert_id}/judgement", json={"author": "Bob", "verdict": "none"})
    assert back.status_code == 201
    shown = (await api.get(f"/alerts/{alert_id}")).json()
    assert shown["notifications"] == []
    assert [(each["author"], each["verdict"]) for each in shown["judgements"]] == [("Ada", "false"), ("Bob", "none")]

    silenced = await api.post("/silences", json=SILENCE)
    assert (silenced.status_code, silenced.json()["state"]) == (201, "holds")
    listed = (await api.get("/silences")).json()["silences"]
    assert [each["id"] for each in listed] == [silenced.json()["id"]]
    assert listed[0]["source"] == "people"
    ended = await api.post(f"/silences/{silenced.json()['id']}/expiry", json={"author": "Bob"})
    assert (ended.status_code, ended.json()["state"]) == (200, "over")
    assert (await api.get("/silences")).json()["silences"] == []
    assert [each["id"] for each in (await api.get("/silences", params={"show": "all"})).json()["silences"]] == [
        silenced.json()["id"]
    ]

    assert [type(command) for command in await commands(settings.kafka)] == [Acknowledge, Mark, Mark, AddSilence, ExpireSilence]


async def test_silences_of_the_settings_are_shown_and_cannot_be_ended(settings: Settings) -> None:
    fixed = {"match": {"rack": "7"}, "starts": "2020-01-01", "ends": "2999-01-01", "author": "Bob", "comment": "old rack"}
    notifications = NotificationSettings.model_validate({"silences": [fixed]})
    part = ApiPart(settings.model_copy(update={"notifications": notifications}))
    await part.start()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{part.port}/api/v1", headers=WITH_TOKEN) as client:
        (listed,) = (await client.get("/silences")).json()["silences"]
        assert (listed["id"], listed["source"], listed["state"], listed["match"]) == (
            "config-1",
            "settings",
            "holds",
            {"rack": "7"},
        )
        refused = await client.post("/silences/config-1/expiry", json={"author": "Ada"})
        assert refused.status_code == 422
        assert "stands in the settings" in refused.json()["detail"]
    await part.close()
    assert await commands(settings.kafka) == []


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "why"),
    [
        ("GET", "/alerts?since=yesterday", None, 422, "since"),
        ("GET", "/alerts?sinse=1", None, 422, "sinse"),
        ("GET", "/alerts/ffffffff", None, 404, "no alert"),
        ("GET", "/nowhere", None, 404, "Not Found"),
        ("PUT", "/alerts", None, 405, "Method"),
        ("POST", "/silences", {**SILENCE, "match": {}}, 422, "match"),
        ("POST", "/silences", {**SILENCE, "author": " "}, 422, "author"),
        ("POST", "/silences", {**SILENCE, "comment": "x" * 70_000}, 413, "65536"),
        ("POST", "/silences/nothing/expiry", {"author": "Ada"}, 404, "no silence"),
    ],
)
async def test_errors_are_problem_details(api: httpx.AsyncClient, method: str, path: str, body: Any, status: int, why: str) -> None:
    answer = await api.request(method, path, json=body, headers=WITH_TOKEN)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    details = answer.json()
    assert details["status"] == status
    assert why in details["detail"]


async def test_a_history_that_is_away_is_a_503_with_a_sentence(settings: Settings) -> None:
    away = settings.elasticsearch.model_copy(update={"url": "http://127.0.0.1:1"})
    part = ApiPart(settings.model_copy(update={"elasticsearch": away}))
    await part.start()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{part.port}/api/v1", headers=WITH_TOKEN) as client:
        for path in ("/health", "/alerts"):
            answer = await client.get(path)
            assert answer.status_code == 503
            assert "does not answer" in answer.json()["detail"]
        silenced = await client.post("/silences", json=SILENCE)  # silencing does not need the history
        assert silenced.status_code == 201
    await part.close()


async def test_a_background_task_that_is_killed_is_a_503_until_it_works_again(api: httpx.AsyncClient) -> None:
    assert (await api.get("/health")).status_code == 200
    [follower] = [task for task in asyncio.all_tasks() if task.get_name() == "control topic"]
    follower.cancel()
    async with asyncio.timeout(60):
        while (answer := await api.get("/health")).status_code == 200:
            await asyncio.sleep(0.02)
        assert answer.status_code == 503
        assert "background task" in answer.json()["detail"]
        while (await api.get("/health")).status_code == 503:
            await asyncio.sleep(0.1)


async def test_a_refused_method_gets_the_methods_of_the_path(api: httpx.AsyncClient) -> None:
    answer = await api.delete("/silences", headers=WITH_TOKEN)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("known", [False, True], ids=["any identifiers", "an alert that exists"])
async def test_schemathesis_finds_nothing(api: httpx.AsyncClient, tmp_path: Path, known: bool) -> None:
    url = str(api.base_url) + "openapi.json"
    command = [
        *(str(Path(sys.executable).parent / "schemathesis"), "run", url, "--header", f"Authorization: Bearer {TOKEN}"),
        *("--max-examples", "25", "--workers", "1", "--seed", "1", "--checks", "all", "--no-color"),
    ]
    if known:
        listed = (await api.get("/alerts", params={"limit": 1}, headers=WITH_TOKEN)).json()["alerts"]
        (tmp_path / "schemathesis.toml").write_text(f'[parameters]\nalert_id = "{listed[0]["tidewatch"]["alert_id"]}"\n')
        command += ["--include-path-regex", "alert_id"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
