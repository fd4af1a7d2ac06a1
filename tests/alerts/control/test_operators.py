"""What people type, end to end: the command line on a real Elasticsearch and Kafka, and what the notifier makes of it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import yaml

from service.alerts.control.commands import Acknowledge, Command, Control
from service.alerts.control.mutes import Mutes
from service.alerts.control.topic import ControlReader
from service.alerts.history.elasticsearch import ElasticsearchAlertStore
from service.clock import SystemClock
from service.settings import KafkaSettings, NotificationSettings, Settings, TopicSettings
from service.state.topics import create_topics
from tests.alerts.makers import alert, background_tasks, life

pytestmark = [pytest.mark.kafka, pytest.mark.elasticsearch, pytest.mark.slow]

Tidewatch = Callable[..., "asyncio.Future[subprocess.CompletedProcess[str]]"]


@pytest.fixture
async def settings(kafka_servers: str, elasticsearch_url: str, tmp_path: Path) -> Settings:
    name = f"people-{uuid.uuid4().hex[:8]}"
    topics = {each: f"{name}.{each}" for each in TopicSettings.model_fields if isinstance(getattr(TopicSettings(), each), str)}
    config = {
        "kafka": {"bootstrap_servers": kafka_servers, "group_prefix": name, "topics": topics},
        "elasticsearch": {"url": elasticsearch_url, "index_prefix": name},
    }
    (tmp_path / "tidewatch.yaml").write_text(yaml.safe_dump(config))
    made = Settings.model_validate(config)
    await create_topics(made.kafka)
    return made


@pytest.fixture
def tidewatch(settings: Settings, tmp_path: Path) -> Tidewatch:
    def run(*words: str) -> asyncio.Future[subprocess.CompletedProcess[str]]:
        environment = {**os.environ, "TIDEWATCH_CONFIG": str(tmp_path / "tidewatch.yaml"), "COLUMNS": "200"}
        command = [sys.executable, "-m", "service", *words]
        call = asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, env=environment, check=False)
        return asyncio.ensure_future(call)

    return run


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[ElasticsearchAlertStore]:
    made = ElasticsearchAlertStore(settings.elasticsearch)
    await made.install_templates()
    yield made
    await made._client.refresh([f"{settings.elasticsearch.index_prefix}-*"])
    await made.close()


async def said(kafka: KafkaSettings) -> tuple[list[Command], Mutes]:
    """Everything on the control topic, and what a notifier mutes because of it."""
    heard: list[Command] = []
    reader = ControlReader(kafka, heard.extend, background_tasks())
    await reader.start()
    await reader.close()
    control, muting = Control(), Mutes(NotificationSettings())
    for command in heard:
        control.apply(command)
    control.mute(muting, SystemClock().now_ms())
    return heard, muting


async def test_a_silence_is_added_listed_and_expired(settings: Settings, tidewatch: Tidewatch) -> None:
    now = SystemClock().now_ms()
    added = await tidewatch("silence", "add", "entity=db-*", "--for", "2h", "--author", "Ada", "--comment", "disks", "--json")
    assert added.returncode == 0, added.stderr
    silence = json.loads(added.stdout)
    assert silence["ends_at"] - silence["starts_at"] == 7_200_000
    _, muting = await said(settings.kafka)
    assert muting.reason(alert("db-7"), now + 60_000) == f"silenced by Ada ({silence['id']}): disks"
    assert muting.reason(alert("web-1"), now + 60_000) is None

    listed = await tidewatch("silence", "list")
    assert silence["id"] in listed.stdout
    assert "entity=db-*" in listed.stdout

    expired = await tidewatch("silence", "expire", silence["id"][:6], "--author", "Bob")
    assert expired.returncode == 0, expired.stderr
    _, muting = await said(settings.kafka)
    assert muting.reason(alert("db-7"), SystemClock().now_ms() + 1) is None
    assert "No silence is in force." in (await tidewatch("silence", "list")).stdout
    assert json.loads((await tidewatch("silence", "list", "--all", "--json")).stdout)[0]["id"] == silence["id"]


async def test_a_silence_of_the_settings_is_listed_as_such_and_no_command_ends_it(
    settings: Settings, tidewatch: Tidewatch, tmp_path: Path
) -> None:
    file = tmp_path / "tidewatch.yaml"
    fixed = {"match": {"rack": "7"}, "starts": "2020-01-01", "ends": "2999-01-01", "author": "Bob", "comment": "[old] rack"}
    over = {**fixed, "ends": "2021-01-01"}
    file.write_text(file.read_text() + yaml.safe_dump({"notifications": {"silences": [fixed, over]}}))
    await tidewatch("silence", "add", "entity=db-*", "--for", "2h", "--author", "Ada")
    listed = (await tidewatch("silence", "list")).stdout
    assert [line.split()[1] for line in listed.splitlines() if "settings" in line] == ["config-1"]
    assert "[old] rack" in listed
    found = json.loads((await tidewatch("silence", "list", "--all", "--json")).stdout)
    assert sorted(each["id"] for each in found if each["fixed"]) == ["config-1", "config-2"]
    assert len(found) == 3
    refused = await tidewatch("silence", "expire", "config-1", "--author", "Ada")
    assert refused.returncode == 2
    assert "stands in the settings" in refused.stderr
    assert "notifications.silences" in refused.stderr
    assert len((await said(settings.kafka))[0]) == 1


@pytest.mark.parametrize(
    ("words", "status", "why"),
    [
        (("silence", "add", "db-7", "--for", "2h", "--author", "Ada"), 2, "is no matcher"),
        (("silence", "add", "entity=a", "--for", "soon", "--author", "Ada"), 2, "is no length of time"),
        (("silence", "add", "entity=a", "--for", "2h", "--author", " "), 2, "needs an author"),
        (("silence", "expire", "nothing", "--author", "Ada"), 2, "no silence whose id begins with 'nothing'"),
        (("alerts", "ack", "abc", "--author", "Ada"), 2, "no alert whose id begins with 'abc'"),
        (("alerts", "mark", "abc", "true", "--suppress", "--author", "Ada"), 2, "Only an alert marked false"),
    ],
)
async def test_what_cannot_be_done_is_one_sentence_and_writes_nothing(
    settings: Settings, tidewatch: Tidewatch, words: tuple[str, ...], status: int, why: str
) -> None:
    done = await tidewatch(*words)
    assert done.returncode == status
    assert why in done.stderr
    assert "Traceback" not in done.stderr
    assert (await said(settings.kafka))[0] == []


async def test_an_alert_is_acknowledged(settings: Settings, tidewatch: Tidewatch, store: ElasticsearchAlertStore) -> None:
    fired = alert("db-7")
    await store.write([fired])
    await store._client.refresh([f"{settings.elasticsearch.index_prefix}-alerts"])
    done = await tidewatch("alerts", "ack", fired.alert_id[:8], "--author", "Ada", "--note", "looking")
    assert done.returncode == 0, done.stderr
    (command,), _ = await said(settings.kafka)
    assert isinstance(command, Acknowledge)
    assert (command.alert_id, command.entity, command.author, command.note) == (fired.alert_id, "db-7", "Ada", "looking")


async def test_a_false_mark_is_previewed_made_and_taken_back(
    settings: Settings, tidewatch: Tidewatch, store: ElasticsearchAlertStore
) -> None:
    now = SystemClock().now_ms()
    wrong = alert("db-7", started_at=now - 3_600_000)
    await store.write([*life("db-7", started_at=now - 86_400_000), alert("db-8", started_at=now - 7_200_000), wrong])
    await store._client.refresh([f"{settings.elasticsearch.index_prefix}-alerts"])
    mark = ("alerts", "mark", wrong.alert_id, "false", "--author", "Ada")

    looked = await tidewatch(*mark, "--preview")
    assert "2 of the 3 alerts that fired since then" in looked.stdout
    assert "cpu_percent" in looked.stdout
    looked = await tidewatch(*mark, "--preview", "--entity", "db-*")
    assert "3 of the 3 alerts that fired since then" in looked.stdout
    assert (await said(settings.kafka))[0] == []

    marked = await tidewatch(*mark, "--suppress", "--note", "backup")
    assert marked.returncode == 0, marked.stderr
    _, muting = await said(settings.kafka)
    assert muting.reason(alert("db-7"), now) is not None
    assert muting.reason(alert("db-8"), now) is None

    undone = await tidewatch("alerts", "mark", wrong.alert_id, "none", "--author", "Bob")
    assert undone.returncode == 0, undone.stderr
    commands, muting = await said(settings.kafka)
    assert muting.reason(alert("db-7"), now) is None
    assert [command.author for command in commands] == ["Ada", "Bob"]  # the trail stays
