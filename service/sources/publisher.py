"""Publishes metrics messages: all messages of one entity go to one partition."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, TopicAuthorizationFailedError

from service.errors import BrokerUnavailable, ConfigError
from service.kafka_options import connect, kafka_client_options
from service.observability.tasks import retrieve_exception
from service.settings import KafkaSettings
from service.sources.topic_range import require_topic

BATCH_BYTES = 256 << 10


class MetricsMessage(msgspec.Struct, frozen=True):
    """An encoded metrics message; ``value`` comes from ``codecs.message.encode``."""

    entity: str
    value: bytes


def partition_of(entity: str, partitions: int) -> int:
    """The partition of an entity's messages. Explicit, because client libraries hash keys differently."""
    return zlib.crc32(entity.encode()) % partitions


class MetricsPublisher:
    """A producer of metrics messages."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._topic = kafka.topics.metrics
        self._producer: Any = None
        self._partitions = 1

    async def start(self) -> None:
        """Connect. Raises ``BrokerUnavailable``, or ``ConfigError`` for refused credentials or a missing topic."""
        await require_topic(self._kafka, self._topic)
        self._producer = await connect(self._make_producer, self._kafka)
        self._partitions = len(await self._producer.partitions_for(self._topic))

    def _make_producer(self) -> Any:
        return AIOKafkaProducer(acks="all", max_batch_size=BATCH_BYTES, **kafka_client_options(self._kafka))

    async def publish(self, messages: Iterable[MetricsMessage]) -> None:
        """Write the messages, in order within each entity, and wait until Kafka has them.

        Raises ``BrokerUnavailable`` when writing failed (some may have arrived), and ``ConfigError`` when Kafka refuses them.
        """
        builders: dict[int, Any] = {}
        sent: list[Any] = []
        try:
            for message in messages:
                partition = partition_of(message.entity, self._partitions)
                key = message.entity.encode()
                builder = builders.get(partition)
                if builder is None or builder.append(key=key, value=message.value, timestamp=None) is None:
                    if builder is not None:
                        sent.append(await self._producer.send_batch(builder, self._topic, partition=partition))
                    builder = builders[partition] = self._producer.create_batch()
                    builder.append(key=key, value=message.value, timestamp=None)  # the first message always fits
            for partition, builder in builders.items():
                sent.append(await self._producer.send_batch(builder, self._topic, partition=partition))
            for future in sent:
                await future
        except MessageSizeTooLargeError as error:
            raise ConfigError(
                f"Kafka refuses a message as too large for {self._topic}.",
                hint="Send fewer metrics, or raise its max.message.bytes.",
            ) from error
        except TopicAuthorizationFailedError as error:
            raise ConfigError(f"Kafka does not let us write to {self._topic}.", hint="Grant the user WRITE on it.") from error
        except (KafkaError, OSError, TimeoutError) as error:
            raise BrokerUnavailable(f"Kafka at {self._kafka.bootstrap_servers} does not accept messages: {error}.") from error
        finally:
            for future in sent:
                future.add_done_callback(retrieve_exception)

    async def close(self) -> None:
        """Disconnect."""
        if self._producer is not None:
            await self._producer.stop()
