"""The topics Tidewatch needs, made once; running it again changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import msgspec
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from service.errors import BrokerUnavailable, ConfigError
from service.kafka_options import connect, kafka_client_options
from service.settings import KafkaSettings

# A dead letter is as large as the worst message the metrics topic took.
LARGEST_DEAD_LETTER = 32 << 20
# Memory is read whole when a partition changes hands, so what is outdated must not pile up: small segments, cleaned early.
COMPACTED = {
    "cleanup.policy": "compact",
    "max.message.bytes": str(16 << 20),
    "segment.bytes": str(32 << 20),
    "segment.ms": "600000",
    "min.cleanable.dirty.ratio": "0.1",
}


class TopicPlan(msgspec.Struct, frozen=True):
    """How a topic should be."""

    name: str
    partitions: int
    configs: dict[str, str]


class TopicOutcome(msgspec.Struct, frozen=True):
    """What ``create_topics`` found or did; ``detail`` says how an existing topic differs from the plan."""

    name: str
    outcome: Literal["created", "exists", "differs", "missing"]
    detail: str = ""


def plan_topics(kafka: KafkaSettings) -> list[TopicPlan]:
    """The topics in use, each with its partitions and what we ask of it beyond the broker's defaults."""
    topics = kafka.topics
    kept = {"cleanup.policy": "delete", "retention.ms": str(topics.retention_hours * 3_600_000)}
    return [
        TopicPlan(topics.metrics, topics.partitions, kept),
        TopicPlan(topics.alerts, 1, kept),
        # people's commands are kept for good: every one has a key of its own
        TopicPlan(topics.control, 1, {"cleanup.policy": "compact"}),
        TopicPlan(topics.state, topics.partitions, COMPACTED),
        TopicPlan(topics.notify_state, 1, COMPACTED),
        # one record names every alert that a message is about, which in a storm are tens of thousands
        TopicPlan(topics.notifications, 1, {**kept, "max.message.bytes": COMPACTED["max.message.bytes"]}),
        TopicPlan(topics.health, 1, COMPACTED),
        TopicPlan(topics.dead_letter, topics.partitions, {**kept, "max.message.bytes": str(LARGEST_DEAD_LETTER)}),
    ]


async def create_topics(kafka: KafkaSettings) -> list[TopicOutcome]:
    """Make the topics that are missing and compare those that are there; existing ones are never altered.

    Raises ``BrokerUnavailable``, or ``ConfigError`` when Kafka does not let us.
    """
    return await _each(kafka, _create)


async def inspect_topics(kafka: KafkaSettings) -> list[TopicOutcome]:
    """As ``create_topics``, but what is missing stays so."""
    return await _each(kafka, _look)


async def _each(
    kafka: KafkaSettings, act: Callable[[Any, TopicPlan, KafkaSettings], Awaitable[TopicOutcome]]
) -> list[TopicOutcome]:
    admin: Any = await connect(lambda: AIOKafkaAdminClient(**kafka_client_options(kafka)), kafka)
    try:
        return [await act(admin, plan, kafka) for plan in plan_topics(kafka)]
    except KafkaError as error:
        raise BrokerUnavailable(f"Kafka at {kafka.bootstrap_servers} did not answer: {error}.") from error
    finally:
        await admin.close()


async def _create(admin: Any, plan: TopicPlan, kafka: KafkaSettings) -> TopicOutcome:
    existing = await admin.list_topics()
    if plan.name not in existing:
        if plan.name == kafka.topics.state and kafka.topics.metrics in existing:  # one for each of them, however many they are
            described = await admin.describe_topics([kafka.topics.metrics])
            plan = msgspec.structs.replace(plan, partitions=len(described[0]["partitions"]))
        new = NewTopic(plan.name, plan.partitions, kafka.topics.replication_factor, topic_configs=plan.configs)
        response = await admin.create_topics([new])
        name, code, *said = response.topic_errors[0]
        error = for_code(code)
        if code == 0:
            await _visible(admin, plan.name)
            return TopicOutcome(name, "created", f"{plan.partitions} partition{'s' if plan.partitions > 1 else ''}")
        if error is not TopicAlreadyExistsError:  # made by someone else meanwhile is as good
            raise ConfigError(
                f"Kafka does not make the topic {name!r}: {said[0] if said and said[0] else error.__name__}.",
                hint="Check kafka.topics.replication_factor and the user's rights.",
            )
    return await _look(admin, plan, kafka)


async def _visible(admin: Any, topic: str) -> None:
    """Brokers learn of a new topic a moment after it was made."""
    for _ in range(100):
        described = await admin.describe_topics([topic])
        if described[0]["error_code"] == 0 and all(part["leader"] >= 0 for part in described[0]["partitions"]):
            return
        await asyncio.sleep(0.05)
    raise BrokerUnavailable(f"The topic {topic!r} was made, but no broker leads it yet.")


async def _look(admin: Any, plan: TopicPlan, kafka: KafkaSettings) -> TopicOutcome:  # noqa: ARG001 - one shape for both acts
    if plan.name not in await admin.list_topics():
        return TopicOutcome(plan.name, "missing")
    return _compare(plan, len((await admin.describe_topics([plan.name]))[0]["partitions"]), await topic_configs(admin, plan.name))


def _compare(plan: TopicPlan, partitions: int, configs: dict[str, str]) -> TopicOutcome:
    """Whether a topic that is there is as planned."""
    differs = [
        f"{name} is {configs.get(name)}, not {wanted}" for name, wanted in plan.configs.items() if configs.get(name) != wanted
    ]
    if partitions != plan.partitions:
        differs.insert(0, f"it has {partitions} partitions, not {plan.partitions}")
    return TopicOutcome(plan.name, "differs" if differs else "exists", "; ".join(differs))


async def topic_configs(admin: Any, topic: str) -> dict[str, str]:
    """The configuration of a topic, as the broker tells it."""
    responses = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    return {str(entry[0]): str(entry[1]) for response in responses for resource in response.resources for entry in resource[4]}
