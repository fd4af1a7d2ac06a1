"""The whole path, on real parts: a series through Kafka comes out as a document, a Slack payload and an e-mail."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from service.alerts.history.reader import AlertHistory
from service.app import build_alert_store, make_detector
from service.demo.receivers import HttpReceiver, MailReceiver
from service.demo.service import ServiceProcess
from service.detectors.bundle import save_bundle
from service.domain import Dataset, Schema, Series
from service.settings import Settings
from service.sources.files import read_dataset
from service.sources.replay import replay
from service.state.topics import create_topics
from service.training.train import train
from tests.e2e.series import FAULT, METRICS, normal, with_fault

pytestmark = [pytest.mark.kafka, pytest.mark.elasticsearch, pytest.mark.slow, pytest.mark.timeout(300)]

TRAINING = {"detectors": {"deep": {"epochs": 10}, "statistical": 1.0}, "window": 50, "stride": 5}


class Rig:
    """Topics, indices and receivers of one test's own, and the settings that tie them together."""

    def __init__(self, folder: Path, kafka: str, elasticsearch: str, slack: HttpReceiver, inbox: MailReceiver) -> None:
        name = f"e2e-{uuid4().hex[:8]}"
        self.bundle = folder / "bundle"
        receivers = [
            {"name": "slack", "type": "slack", "url": slack.url, "allow_http": True},
            {"name": "email", "type": "email", "to": ["oncall@example.org"], "tls": "none", "port": inbox.port},
        ]
        route = {"receivers": ["slack", "email"], "group_by": ["entity"], "group_wait_seconds": 0.2, "group_interval_seconds": 0.5}
        ours = ("metrics", "alerts", "control", "state", "notify_state", "notifications", "health", "dead_letter")
        topics = {topic: f"{name}.{topic}" for topic in ours} | {"partitions": 2}
        self.config: dict[str, Any] = {
            "kafka": {"bootstrap_servers": kafka, "group_prefix": name, "topics": topics},
            "elasticsearch": {"url": elasticsearch, "index_prefix": name},
            "models": [{"match": "*", "bundle": str(self.bundle)}],
            "training": TRAINING,
            "detection": {"budget": {"false_alarms_per_entity_day": 20}},
            "notifications": {"receivers": receivers, "routes": [route]},
        }
        self.settings = Settings(**self.config)

    async def prepare(self) -> None:
        await create_topics(self.settings.kafka)
        store = build_alert_store(self.settings)
        await store.install_templates()
        await store.close()

    def train(self, dataset: Dataset) -> None:
        training = self.settings.training
        bundle = train(dataset, training, name="e2e", detectors=training.detectors, factory=make_detector)
        save_bundle(bundle, self.bundle)

    async def stored(self, enough: int, seconds: float = 60.0) -> list[dict[str, Any]]:
        history = AlertHistory(self.settings.elasticsearch)
        try:
            async with asyncio.timeout(seconds):
                while True:
                    await history.refresh()
                    found = await history.find(told_only=True)
                    if len([one for one in found if one["tidewatch"]["status"] == "resolved"]) >= enough:
                        return found
                    await asyncio.sleep(0.5)
        finally:
            await history.close()


def generated() -> tuple[Dataset, Dataset]:
    schema = Schema(METRICS, 60_000)
    return Dataset(schema, [Series("db-7", 0, normal(2500, seed=1))]), Dataset(schema, [Series("db-7", 0, with_fault())])


def labelled(data_dir: Path) -> tuple[Dataset, Dataset]:
    path = data_dir / "SMD" / "machine-1-7.npz"
    past, coming = read_dataset(path, split="train"), read_dataset(path, split="test")
    return Dataset(past.schema, [Series("machine-1-7", 0, past.series[0].values[-8000:])]), coming


async def carried_through(
    folder: Path, kafka: str, elasticsearch: str, past: Dataset, coming: Dataset
) -> tuple[Any, Any, Any, int]:
    async with HttpReceiver() as slack, MailReceiver() as inbox:
        rig = Rig(folder, kafka, elasticsearch, slack, inbox)
        await rig.prepare()
        await asyncio.to_thread(rig.train, past)
        async with ServiceProcess(rig.config, folder) as service:
            await service.ready(180)
            await replay(coming, rig.settings.kafka, rebase=True)
            stored = await rig.stored(1)
            posted = await slack.wait_for(1, 30)
            mails = await inbox.wait_for(1, 30)
            status = await service.stop()
    return stored, posted, mails, status


def has_all(stored: Any, posted: Any, mails: Any, entity: str) -> None:
    alert = stored[-1]
    assert alert["host"]["name"] == entity
    assert alert["event"]["kind"] == "alert"
    assert entity in alert["message"]
    payload = posted[0].json()
    assert entity in str(payload["blocks"])
    assert entity in str(mails[0].message["Subject"])
    top = alert["tidewatch"]["top_metric"]
    assert top
    assert any(top in mail.text() for mail in mails), "the e-mail should name the metric the document names"


async def test_a_generated_fault_reaches_the_history_slack_and_the_mailbox(
    tmp_path: Path, kafka_servers: str, elasticsearch_url: str
) -> None:
    past, coming = generated()
    stored, posted, mails, status = await carried_through(tmp_path, kafka_servers, elasticsearch_url, past, coming)
    has_all(stored, posted, mails, "db-7")
    assert status == 0, "SIGTERM should drain, commit and end well"
    first = coming.series[0].values
    assert len(first) == 1200
    hit = [alert for alert in stored if {"latency", "errors"} & set(alert["tidewatch"]["metric_names"][:2])]
    assert hit, f"the fault at {FAULT} was not notified"


@pytest.mark.data
async def test_a_labelled_machine_reaches_the_history_slack_and_the_mailbox(
    tmp_path: Path, kafka_servers: str, elasticsearch_url: str, data_dir: Path
) -> None:
    past, coming = labelled(data_dir)
    stored, posted, mails, status = await carried_through(tmp_path, kafka_servers, elasticsearch_url, past, coming)
    has_all(stored, posted, mails, "machine-1-7")
    assert status == 0
    labels = coming.series[0].labels
    assert labels is not None
    assert np.any(labels), "the series should hold an anomaly"
