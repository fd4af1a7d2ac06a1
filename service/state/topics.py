"""Creates and checks the topics that Tidewatch needs; existing topics are not changed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import msgspec
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from service.errors import BrokerUnavailable, ConfigError
from service.kafka_options import connect, kafka_client_options
from service.settings import KafkaSettings

# A dead letter is as large as the largest message of the metrics topic.
LARGEST_DEAD_LETTER = 32 << 20
# State is read whole at every takeover, so outdated records must not pile up: small segments, compacted early.
COMPACTED = {
    "cleanup.policy": "compact",
    "max.message.bytes": str(16 << 20),
    "segment.bytes": str(32 << 20),
    "segment.ms": "600000",
    "min.cleanable.dirty.ratio": "0.1",
}


class TopicPlan(msgspec.Struct, frozen=True):
    """The wanted configuration of a topic."""

    name: str
    partitions: int
    configs: dict[str, str]


class TopicOutcome(msgspec.Struct, frozen=True):
    """The result for one topic; ``detail`` says how an existing topic differs from its plan.

    ``raised``: it has got partitions; ``too-few``: it needs more.
    """

    name: str
    outcome: Literal["created", "raised", "exists", "differs", "missing", "too-few"]
    detail: str = ""


def plan_topics(kafka: KafkaSettings) -> list[TopicPlan]:
    """The topics in use, each with its partitions and the configuration that differs from the broker's defaults."""
    topics = kafka.topics
    kept = {"cleanup.policy": "delete", "retention.ms": str(topics.retention_hours * 3_600_000)}
    return [
        TopicPlan(topics.metrics, topics.partitions, kept),
        TopicPlan(topics.alerts, 1, kept),
        # every command has a key of its own; the store part deletes those without effect (decision 0017)
        TopicPlan(topics.control, 1, {"cleanup.policy": "compact"}),
        TopicPlan(topics.state, topics.partitions, COMPACTED),
        TopicPlan(topics.notify_state, 1, COMPACTED),
        # one record names every alert of a message: tens of thousands in an alert storm
        TopicPlan(topics.notifications, 1, {**kept, "max.message.bytes": COMPACTED["max.message.bytes"]}),
        TopicPlan(topics.health, 1, COMPACTED),
        TopicPlan(topics.dead_letter, topics.partitions, {**kept, "max.message.bytes": str(LARGEST_DEAD_LETTER)}),
    ]


async def create_topics(kafka: KafkaSettings) -> list[TopicOutcome]:
    """Create missing topics and compare existing ones with the plan.

    Of existing ones only the state topic is altered: it gets as many partitions as the metrics topic has.

    Raises ``BrokerUnavailable``, or ``ConfigError`` when Kafka denies it.
    """
    return await _for_each(kafka, _create)


async def inspect_topics(kafka: KafkaSettings) -> list[TopicOutcome]:
    """As ``create_topics``, without creating any."""
    return await _for_each(kafka, _inspect)


async def _for_each(
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
        if plan.name == kafka.topics.state and kafka.topics.metrics in existing:  # as many partitions as the metrics topic has
            described = await admin.describe_topics([kafka.topics.metrics])
            plan = msgspec.structs.replace(plan, partitions=len(described[0]["partitions"]))
        new = NewTopic(plan.name, plan.partitions, kafka.topics.replication_factor, topic_configs=plan.configs)
        response = await admin.create_topics([new])
        name, code, *messages = response.topic_errors[0]
        error = for_code(code)
        if code == 0:
            await _wait_until_led(admin, plan.name)
            return TopicOutcome(name, "created", f"{plan.partitions} partition{'s' if plan.partitions > 1 else ''}")
        if error is not TopicAlreadyExistsError:  # created by another process meanwhile is fine
            raise ConfigError(
                f"Kafka did not create the topic {name!r}: {next(filter(None, messages), error.__name__)}.",
                hint="Check kafka.topics.replication_factor and the user's rights.",
            )
    found = await _inspect(admin, plan, kafka)
    if found.outcome != "too-few":
        return found
    wanted = await partitions_of(admin, kafka.topics.metrics)
    response = await admin.create_partitions({plan.name: NewPartitions(wanted)})
    name, code, *messages = response.topic_errors[0]
    if code:
        raise ConfigError(
            f"Kafka did not give {name!r} {wanted} partitions: {next(filter(None, messages), for_code(code).__name__)}.",
            hint="Check the user's rights.",
        )
    await _wait_until_led(admin, plan.name)
    return TopicOutcome(plan.name, "raised", f"{wanted} partitions, as {kafka.topics.metrics} has")


async def partitions_of(admin: Any, topic: str) -> int:
    """How many partitions a topic has."""
    return len((await admin.describe_topics([topic]))[0]["partitions"])


async def _wait_until_led(admin: Any, topic: str) -> None:
    """Wait until every partition has a leader; brokers learn of a new topic with a delay. Raises ``BrokerUnavailable``."""
    for _ in range(100):
        described = await admin.describe_topics([topic])
        if described[0]["error_code"] == 0 and all(part["leader"] >= 0 for part in described[0]["partitions"]):
            return
        await asyncio.sleep(0.05)
    raise BrokerUnavailable(f"The topic {topic!r} was created, but no broker leads it yet.")


async def _inspect(admin: Any, plan: TopicPlan, kafka: KafkaSettings) -> TopicOutcome:
    existing = await admin.list_topics()
    if plan.name not in existing:
        return TopicOutcome(plan.name, "missing")
    partitions = await partitions_of(admin, plan.name)
    if plan.name == kafka.topics.state and kafka.topics.metrics in existing:
        metrics = await partitions_of(admin, kafka.topics.metrics)
        if partitions < metrics:
            return TopicOutcome(plan.name, "too-few", f"it has {partitions} partitions, {kafka.topics.metrics} has {metrics}")
    return _compare(plan, partitions, await topic_configs(admin, plan.name))


def _compare(plan: TopicPlan, partitions: int, configs: dict[str, str]) -> TopicOutcome:
    """Compare an existing topic with its plan."""
    differs = [
        f"{name} is {configs.get(name)}, not {wanted}" for name, wanted in plan.configs.items() if configs.get(name) != wanted
    ]
    if partitions != plan.partitions:
        differs.insert(0, f"it has {partitions} partitions, not {plan.partitions}")
    return TopicOutcome(plan.name, "differs" if differs else "exists", "; ".join(differs))


async def topic_configs(admin: Any, topic: str) -> dict[str, str]:
    """The configuration of a topic by name, as the broker reports it."""
    responses = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    return {str(name): str(value) for response in responses for *_, entries in response.resources for name, value, *_ in entries}
