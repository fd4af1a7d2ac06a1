"""The saved objects hold together, and every panel's query and aggregation gives the right numbers on a real Elasticsearch.

Kibana itself cannot be run here; what it replaces in a panel (time range, interval, dashboard filters) is replaced by hand.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from elasticsearch import AsyncElasticsearch

from service.alerts.control.commands import Acknowledge, AddSilence, Command, Mark
from service.alerts.history.elasticsearch import ElasticsearchAlertStore
from service.alerts.topics.deliveries import Delivery, DeliveryState
from service.domain import MetricShare, Severity
from service.settings import ElasticsearchSettings
from tests.alerts.makers import BORN, alert, life

FOLDER = Path(__file__).resolve().parent.parent.parent / "deploy" / "kibana"
OBJECTS = [json.loads(line) for line in (FOLDER / "tidewatch.ndjson").read_text(encoding="utf-8").splitlines()]
BY_ID = {(each["type"], each["id"]): each for each in OBJECTS}
HOUR_MS = 3_600_000
START = BORN * 1000 - BORN * 1000 % HOUR_MS


def spec(name: str) -> Any:
    return json.loads(json.loads(BY_ID["visualization", name]["attributes"]["visState"])["params"]["spec"])


def replaced(node: Any) -> Any:
    """A panel's request as Kibana sends it for five hours from ``START``, by the hour, without dashboard filters."""
    if isinstance(node, list):
        return [replaced(each) for each in node if not (isinstance(each, str) and each.startswith("%dashboard_context"))]
    if node == {"%timefilter%": True}:
        return {"gte": START, "lte": START + 5 * HOUR_MS, "format": "epoch_millis"}
    if node == {"%autointerval%": True}:
        return "1h"
    if isinstance(node, dict):
        assert not any(key.startswith("%") for key in node), node
        return {key: replaced(value) for key, value in node.items()}
    return node


def test_the_file_is_what_its_script_writes(tmp_path: Path) -> None:
    script = (FOLDER / "build.py").read_text(encoding="utf-8")
    (tmp_path / "build.py").write_text(script, encoding="utf-8")
    subprocess.run([sys.executable, str(tmp_path / "build.py")], check=True, env={**os.environ})
    assert (tmp_path / "tidewatch.ndjson").read_text() == (FOLDER / "tidewatch.ndjson").read_text()


def test_everything_referred_to_is_there_and_on_the_dashboard() -> None:
    assert len(BY_ID) == len(OBJECTS)
    for each in OBJECTS:
        for reference in each["references"]:
            assert (reference["type"], reference["id"]) in BY_ID
    dashboard = BY_ID["dashboard", "tidewatch"]
    panels = json.loads(dashboard["attributes"]["panelsJSON"])
    named = {reference["name"]: reference["id"] for reference in dashboard["references"]}
    shown = {named[f"{each['panelIndex']}:{each['panelRefName']}"] for each in panels}
    assert shown == {name for kind, name in BY_ID if kind == "visualization"}
    taken = [(g["x"] + dx, g["y"] + dy) for g in (p["gridData"] for p in panels) for dx in range(g["w"]) for dy in range(g["h"])]
    assert len(taken) == len(set(taken)), "two panels lie on each other"
    assert max(x for x, _ in taken) < 48


@pytest.fixture
async def written(elasticsearch_url: str) -> AsyncIterator[tuple[AsyncElasticsearch, str]]:
    """Documents of the store's own making: five hours of alerts and commands."""
    prefix = f"kibana-{uuid.uuid4().hex[:8]}"
    store = ElasticsearchAlertStore(ElasticsearchSettings(url=elasticsearch_url, index_prefix=prefix))
    await store.install_templates()
    disk = (MetricShare("disk", 1.0, 9.0, 1.0),)
    for hour, (entity, severity) in enumerate(
        (("db-1", Severity.CRITICAL), ("db-1", Severity.WARNING), ("db-2", Severity.WARNING))
    ):
        opened, fired, resolved = life(entity, severity, started_at=START + hour * HOUR_MS)
        await store.write([opened, fired, resolved])
    await store.write([alert("db-1", severity=Severity.WARNING, started_at=START + HOUR_MS + 60_000, metrics=disk)])  # still firing
    await store.write(life("db-9", Severity.INFO, started_at=START + 60_000, fired_at=None))  # nobody was told
    await store.write(life("db-9", Severity.CRITICAL, started_at=START - 20 * HOUR_MS))  # out of the range
    said = {"alert_id": "a" * 32, "entity": "db-1", "metrics": ("disk",), "author": "Ada"}
    commands: list[Command] = [
        Mark(id="1", verdict="false", at=START + 10, **said),  # type: ignore[arg-type]  # the same fields for all three
        Mark(id="2", verdict="false", at=START + HOUR_MS, **said),  # type: ignore[arg-type]  # see above
        Mark(id="3", verdict="none", at=START + HOUR_MS, **said),  # type: ignore[arg-type]  # see above
        Acknowledge(id="4", alert_id="a" * 32, entity="db-1", author="Ada", at=START + 10),
        AddSilence(id="5", match={"rack": "7"}, starts_at=START, ends_at=START + 1, author="Ada", at=START + 10),
    ]
    await store.write_commands(commands)
    await store.write_commands(commands)  # read again after a restart
    await store.write_deliveries([*told("k1", 0, "owed", "sent"), *told("k2", 1, "owed", "gave_up"), *told("k3", 1, "owed")])
    await store.write_deliveries(told("k2", 1, "owed"))
    client = AsyncElasticsearch(elasticsearch_url)
    await client.indices.refresh(index=f"{prefix}-*")
    yield client, prefix
    await client.close()
    await store.close()


def told(key: str, hour: int, *states: DeliveryState) -> list[Delivery]:
    at = START + hour * HOUR_MS
    ids = ["a" * 32, "b" * 32]
    return [
        Delivery(key=key, receiver="slack", state=state, reason="fired", labels={}, alert_ids=ids, owed_at=at, at=at, attempts=1)
        for state in states
    ]


async def rows(written: tuple[AsyncElasticsearch, str], name: str) -> list[dict[str, Any]]:
    client, prefix = written
    url = spec(name)["data"]["url"]
    answer = await client.search(index=url["index"].replace("tidewatch", prefix, 1), **replaced(url["body"]))
    found = answer.body
    for part in spec(name)["data"]["format"]["property"].split("."):
        found = found[part]
    buckets: list[dict[str, Any]] = found
    return buckets


def drawn_fields(name: str) -> list[str]:
    return [channel["field"] for channel in spec(name)["encoding"].values() if channel["field"] != "minutes"]


@pytest.mark.elasticsearch
async def test_every_panel_shows_the_numbers(written: tuple[AsyncElasticsearch, str]) -> None:
    over_time = await rows(written, "tidewatch-over-time")
    counted = {((row["key"]["time"] - START) // HOUR_MS, row["key"]["kind"]): row["doc_count"] for row in over_time}
    assert counted == {(0, "critical"): 1, (1, "warning"): 2, (2, "warning"): 1}

    noisiest = await rows(written, "tidewatch-noisiest")
    assert [(row["key"], row["doc_count"]) for row in noisiest] == [("db-1", 3), ("db-2", 1)]

    metrics = await rows(written, "tidewatch-metrics")
    assert [(row["key"], row["doc_count"]) for row in metrics] == [("cpu_percent", 3), ("disk", 1)]

    took = {row["key"]: row["took"]["values"][0]["value"] / 6e10 for row in await rows(written, "tidewatch-resolve")}
    assert took == {"critical": pytest.approx(1.5), "warning": pytest.approx(1.5)}  # ``life`` lasts 90 s

    outcomes = await rows(written, "tidewatch-outcomes")
    counted = {((row["key"]["time"] - START) // HOUR_MS, row["key"]["kind"]): row["doc_count"] for row in outcomes}
    assert counted == {(0, "sent"): 1, (1, "gave_up"): 1, (1, "owed"): 1}

    marks = await rows(written, "tidewatch-marks")
    counted = {((row["key"]["time"] - START) // HOUR_MS, row["key"]["kind"]): row["doc_count"] for row in marks}
    assert counted == {(0, "marked-false"): 1, (1, "marked-false"): 1, (1, "mark-withdrawn"): 1}

    for name in (name for kind, name in BY_ID if kind == "visualization"):
        for field in drawn_fields(name):  # what is drawn is what came
            value: Any = (await rows(written, name))[0]
            for part in field.split("."):
                value = value[part]


@pytest.mark.elasticsearch
async def test_every_column_and_time_field_is_mapped(written: tuple[AsyncElasticsearch, str]) -> None:
    client, prefix = written
    for each in OBJECTS:
        if each["type"] != "search":
            continue
        view = BY_ID["index-pattern", each["references"][0]["id"]]["attributes"]
        index = view["title"].replace("tidewatch", prefix, 1)
        for field in (*each["attributes"]["columns"], view["timeFieldName"]):
            mapped = await client.indices.get_field_mapping(index=index, fields=field)
            assert all(found["mappings"] for found in mapped.body.values()), (each["id"], field)
