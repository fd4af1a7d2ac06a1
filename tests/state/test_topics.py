"""Topics are made once, with their partitions and retention, and compared afterwards."""

from __future__ import annotations

import msgspec
import pytest

from service.errors import BrokerUnavailable, ConfigError
from service.settings import KafkaSettings
from service.state.topics import create_topics, inspect_topics
from tests.sources.rig import kafka_settings

pytestmark = pytest.mark.kafka


def changed(kafka: KafkaSettings, **topics: int) -> KafkaSettings:
    return kafka.model_copy(update={"topics": kafka.topics.model_copy(update=topics)})


async def test_topics_are_made_once_and_differences_are_told(kafka_servers: str) -> None:
    kafka = kafka_settings(kafka_servers, partitions=3).kafka
    assert {one.outcome for one in await inspect_topics(kafka)} == {"missing"}
    made = await create_topics(kafka)
    assert [(one.name, one.outcome, one.detail) for one in made] == [
        (kafka.topics.metrics, "created", "3 partitions"),
        (kafka.topics.alerts, "created", "1 partition"),
        (kafka.topics.control, "created", "1 partition"),
        (kafka.topics.state, "created", "3 partitions"),
        (kafka.topics.notify_state, "created", "1 partition"),
        (kafka.topics.notifications, "created", "1 partition"),
        (kafka.topics.health, "created", "1 partition"),
        (kafka.topics.dead_letter, "created", "3 partitions"),
    ]
    assert [one.outcome for one in await create_topics(kafka)] == ["exists"] * 8
    assert await inspect_topics(kafka) == await create_topics(kafka)
    other = await create_topics(changed(kafka, partitions=5, retention_hours=1))
    assert [one.outcome for one in other] == ["differs", "differs", "exists", "differs", "exists", "differs", "exists", "differs"]
    assert other[0].detail == "it has 3 partitions, not 5; retention.ms is 604800000, not 3600000"
    assert msgspec.json.encode(other[1]) is not None  # the CLI prints it as JSON


async def test_a_topic_that_kafka_does_not_make_is_a_sentence(kafka_servers: str) -> None:
    kafka = kafka_settings(kafka_servers).kafka
    with pytest.raises(ConfigError, match="Kafka did not create the topic") as error:
        await create_topics(changed(kafka, replication_factor=3))
    assert "replication_factor" in error.value.hint


async def test_without_a_broker_it_is_one_sentence_too() -> None:
    with pytest.raises(BrokerUnavailable, match="does not answer"):
        await create_topics(kafka_settings("127.0.0.1:1", connect_timeout_seconds=0.3).kafka)
