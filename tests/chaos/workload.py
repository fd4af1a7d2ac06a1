"""The workload of the chaos run: a cheap real bundle, settings with short time-outs, and a feed with faults in it.

The feed holds what a network of careless producers brings: messages sent twice, rows out of order, rows that come too late,
metrics missing, whole stretches missing, and garbage.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from service.app import make_detector
from service.detectors.bundle import save_bundle
from service.domain import Dataset, Schema, Series
from service.errors import BrokerUnavailable
from service.settings import KafkaSettings, TrainingSettings
from service.sources.publisher import MetricsMessage, MetricsPublisher
from service.training.train import train

METRICS = ("cpu", "mem", "io")
SCHEMA = Schema(METRICS, 1000)
T0 = 1_763_769_600_000
WINDOW, STRIDE = 20, 5
ENTITIES = [f"host-{at}" for at in range(12)]
SESSION_SECONDS = 2.0
LATENESS_ROWS = 4
# None of its alerts is expected. The workers report all the same, so that kills find them at it: on a model that is never too old.
DATA_HEALTH = {
    "check_every_seconds": 2.0,
    **dict.fromkeys(("max_lag_records", "max_rejected_share", "max_late_share")),
    "still_metrics": False,
    "empty_metrics": False,
    "max_model_age_days": 36_500,
}


def config(kafka: str, elasticsearch: str, receiver: str, folder: Path) -> dict[str, Any]:
    """The settings of every worker."""
    route = {"receivers": ["hook"], "group_by": ["alert"], "group_wait_seconds": 0.2, "group_interval_seconds": 0.2}
    hook = {"name": "hook", "type": "webhook", "url": receiver, "allow_http": True}
    return {
        "kafka": {
            "bootstrap_servers": kafka,
            "session_timeout_seconds": SESSION_SECONDS,
            "request_timeout_seconds": 5.0,
            "connect_timeout_seconds": 20.0,
        },
        "elasticsearch": {"url": elasticsearch, "request_timeout_seconds": 5.0},
        "models": [{"match": "*", "bundle": str(folder / "bundle")}],
        "stream": {"allowed_lateness_seconds": LATENESS_ROWS, "max_gap_rows": 3, "max_batch_records": 200},
        "detection": {"budget": {"false_alarms_per_entity_day": 400}, "threads": 1},
        "notifications": {"receivers": [hook], "routes": [route], "attempt_timeout_seconds": 5.0},
        "data_health": DATA_HEALTH,
        "http": {"enabled": False},
        "log": {"format": "json"},
    }


def normal(rows: int, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(rows, 3): three correlated metrics without faults."""
    rng = np.random.default_rng(seed)
    common = np.sin(np.arange(rows) / 37)[:, None] * np.array([1.0, 0.5, 0.8])
    return np.asarray(common + rng.normal(0, 0.3, (rows, 3)) + [10, 50, 5], np.float32)


def save_trained(folder: Path) -> None:
    """A bundle with one quick member, deterministic."""
    series = [Series(f"past-{at}", 0, normal(2500, seed=at)) for at in range(4)]
    told = TrainingSettings(window=WINDOW, stride=STRIDE, detectors={"mahalanobis": {"prototypes": 4, "spans": (5, 20)}})
    save_bundle(train(Dataset(SCHEMA, series), told, name="chaos", detectors=told.detectors, factory=make_detector), folder)


class Feed:
    """Publishes rows for as long as it is told to. The same seed gives the same messages in the same order."""

    def __init__(self, kafka: KafkaSettings, seed: int, rows_a_second: float) -> None:
        self._kafka = kafka
        self._random = random.Random(seed)
        self._seed = seed
        self._pace = 1 / rows_a_second
        self.rows = 0
        self.messages = 0
        self._until: dict[str, tuple[int, int, np.ndarray[Any, Any]]] = {}
        self._silent: dict[str, int] = {}
        self._kept: list[tuple[int, MetricsMessage]] = []  # to be sent at a later row

    async def run(self, stop: asyncio.Event) -> None:
        """Publish until ``stop``; while Kafka is away the same messages are tried again."""
        publisher = MetricsPublisher(self._kafka)
        await publisher.start()
        loop = asyncio.get_running_loop()
        due = loop.time()
        while not stop.is_set():
            messages = self._row(self.rows)
            while True:
                try:
                    await publisher.publish(messages)
                    break
                except BrokerUnavailable:
                    await asyncio.sleep(0.2)
            self.rows += 1
            self.messages += len(messages)
            due = max(due + self._pace, loop.time() - 2.0)
            await asyncio.sleep(max(0.0, due - loop.time()))
        await publisher.close()

    def _row(self, row: int) -> list[MetricsMessage]:
        chance = self._random
        messages = [message for at, message in self._kept if at <= row]
        self._kept = [(at, message) for at, message in self._kept if at > row]
        for number, entity in enumerate(ENTITIES):
            message = self._message(entity, number, row)
            if message is None:
                continue
            dice = chance.random()
            if dice < 0.03:  # out of order, in time
                self._kept.append((row + chance.randint(1, LATENESS_ROWS), message))
            elif dice < 0.035:  # too late
                self._kept.append((row + LATENESS_ROWS + chance.randint(5, 9), message))
            else:
                messages.append(message)
            if dice > 0.98:  # twice
                self._kept.append((row + chance.randint(0, 3), message))
            if chance.random() < 0.05:
                messages.append(MetricsMessage(entity, self._garbage(entity)))
        return messages

    def _message(self, entity: str, number: int, row: int) -> MetricsMessage | None:
        chance = self._random
        if self._silent.get(entity, 0) > row:
            return None
        if chance.random() < 0.0015:
            self._silent[entity] = row + chance.choice((2, 3, 12))  # carried over, or the end of a run
        begin, end, shift = self._until.get(entity, (0, 0, np.zeros(3)))
        if row >= end and chance.random() < 0.008:
            begin, end = row, row + chance.randint(15, 70)
            shift = np.array([chance.choice((0.0, 1.5, 3.0, 6.0)) for _ in METRICS])
            self._until[entity] = (begin, end, shift)
        noise = np.random.default_rng((self._seed, number, row)).normal(0, 0.3, 3)
        values = np.sin(row / 37) * np.array([1.0, 0.5, 0.8]) + noise + [10, 50, 5] + (shift if begin <= row < end else 0)
        told: dict[str, float | None] = {name: round(float(value), 4) for name, value in zip(METRICS, values, strict=True)}
        if chance.random() < 0.02:
            told[chance.choice(METRICS)] = None
        return MetricsMessage(entity, msgspec.json.encode({"entity": entity, "timestamp": T0 + row * 1000, "values": told}))

    def _garbage(self, entity: str) -> bytes:
        return self._random.choice(
            (
                b"not json",
                b"\x00\xff\xfe",
                b"",
                b"[1, 2, 3]",
                msgspec.json.encode({"entity": entity, "timestamp": "yesterday", "values": {"cpu": 1.0}}),
                msgspec.json.encode({"entity": entity, "timestamp": T0, "values": "many"}),
                msgspec.json.encode({"entity": entity, "timestamp": T0, "values": {"cpu": "high"}}),
                msgspec.json.encode({"timestamp": 10**15, "values": {"cpu": 1.0}, "entity": entity}),
            )
        )
