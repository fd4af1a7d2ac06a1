"""Of several entities one falls silent, a metric of another freezes, one of a third turns to nulls: from the messages to the pager
and back, over a restart of the service in between."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.app import build_service, make_detector
from service.clock import SystemClock
from service.demo.receivers import HttpReceiver
from service.detectors.bundle import save_bundle
from service.domain import Dataset, Schema, Series
from service.runtime import run_parts
from service.settings import Settings, TrainingSettings
from service.sources.codecs.message import encode
from service.sources.publisher import MetricsMessage, MetricsPublisher
from service.state.topics import create_topics
from service.training.train import train
from tests.sources.rig import kafka_settings

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(300)]

METRICS = ("cpu", "mem", "io")
INTERVAL_MS = 200
ENTITIES = {"db-1": "r1", "db-2": "r1", "web-1": "r2", "web-2": "r2"}  # with the rack of each


def save_trained(folder: Path) -> None:
    values = np.random.default_rng(5).normal(50, 1, size=(2000, len(METRICS))).astype(np.float32)
    training = TrainingSettings(window=10, stride=5, detectors={"mahalanobis": 1.0})
    dataset = Dataset(Schema(METRICS, INTERVAL_MS), [Series("host", 0, values)])
    save_bundle(train(dataset, training, name="small", detectors=training.detectors, factory=make_detector), folder)


class Fleet:
    """Sends a row of every entity five times a second; ``broken`` says what is wrong with some of them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._random = random.Random(6)
        self.broken: dict[str, dict[str, float | None] | None] = {}
        self.rows = 0

    async def run(self) -> None:
        publisher = MetricsPublisher(self._settings.kafka)
        await publisher.start()
        try:
            while True:
                await publisher.publish(self._row())
                self.rows += 1
                await asyncio.sleep(INTERVAL_MS / 1000)
        finally:
            await publisher.close()

    def _row(self) -> Iterable[MetricsMessage]:
        now = SystemClock().now_ms()
        for entity, rack in ENTITIES.items():
            wrong = self.broken.get(entity, {})
            if wrong is not None:
                values = {metric: self._random.gauss(50, 1) for metric in METRICS} | wrong
                yield MetricsMessage(entity, encode(entity, now, values, {"rack": rack}))


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[None]:
    """The scoring and notify parts, drained at the end."""
    stop = asyncio.Event()
    task = asyncio.create_task(run_parts(build_service(settings, ["scoring", "notify"]), stop))
    try:
        yield
    finally:
        stop.set()
        await task


async def until(holds: Callable[[], bool], seconds: float = 90) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.1)


async def test_each_is_notified_by_name_and_resolved_when_it_comes_back(tmp_path: Path, kafka_servers: str) -> None:
    await asyncio.to_thread(save_trained, tmp_path / "bundle")
    kafka = kafka_settings(kafka_servers).kafka
    await create_topics(kafka)
    async with HttpReceiver() as pager:
        notifications = {
            "receivers": [{"name": "pager", "type": "webhook", "url": pager.url, "allow_http": True}],
            "routes": [
                {
                    "match": {"kind": "data_health", "rack": "r?"},
                    "receivers": ["pager"],
                    "group_wait_seconds": 0,
                    "group_interval_seconds": 0.2,
                }
            ],
        }
        settings = Settings(
            kafka=kafka.model_dump(),
            models=[{"match": "*", "bundle": tmp_path / "bundle"}],
            data_health={"check_every_seconds": 1.0, "fire_after": 2, "max_entity_silence_seconds": 4, "max_late_share": None},
            notifications=notifications,
            http={"enabled": False},
        )

        def received() -> dict[tuple[str, str, str], Any]:
            """The first state of each alert that was posted as firing, and as resolved."""
            states: dict[tuple[str, str, str], Any] = {}
            for posted in pager.accepted:
                for alert in posted.json()["alerts"]:
                    states.setdefault((alert["entity"], alert["labels"]["check"], alert["status"]), alert)
            return states

        wrong = {("db-1", "silent"), ("db-2", "still"), ("web-1", "empty")}
        fleet = Fleet(settings)
        sending = asyncio.create_task(fleet.run())
        try:
            async with running(settings):
                await until(lambda: fleet.rows > 40)
                assert not received(), "no fault yet"
                began = SystemClock().now_ms()
                fleet.broken = {"db-1": None, "db-2": {"cpu": 50.0}, "web-1": {"mem": None}}
                await until(lambda: {(*each, "firing") for each in wrong} <= received().keys())
            fired = received()
            assert {key[:2] for key in fired} == wrong, "and nothing else"
            assert "cpu stands still" in fired["db-2", "still", "firing"]["reason"]
            assert "mem has only nulls" in fired["web-1", "empty", "firing"]["reason"]
            assert "sends nothing any more" in fired["db-1", "silent", "firing"]["reason"]
            for alert in fired.values():
                assert alert["kind"] == "data_health"
                assert alert["labels"]["rack"] == ENTITIES[alert["entity"]]
                assert began - 3000 <= alert["started_at"] <= alert["fired_at"]
            async with running(settings):
                seen = fleet.rows
                await until(lambda: fleet.rows > seen + 40)
                assert received().keys() == fired.keys(), "a restart neither ends nor repeats them"
                fleet.broken = {}
                await until(lambda: {(*each, "resolved") for each in wrong} <= received().keys())
        finally:
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sending
        ended = received()
        assert len(ended) == 6
        reasons = {key[1]: alert["reason"] for key, alert in ended.items() if key[2] == "resolved"}
        assert reasons == {
            "silent": "it sends again",
            "still": "what stood still moves again",
            "empty": "what had only nulls has values again",
        }
        for entity, check in wrong:
            assert ended[entity, check, "resolved"]["alert_id"] == fired[entity, check, "firing"]["alert_id"]
