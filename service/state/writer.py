"""A plain idempotent producer, for records that may be written twice: dead letters of the later parts, reports, resent records."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import InvalidTopicError, KafkaError, TopicAuthorizationFailedError

from service.errors import BrokerUnavailable, ConfigError
from service.kafka_options import connect, disconnect, kafka_client_options
from service.settings import KafkaSettings
from service.state.producer import LARGEST_REQUEST, Outgoing


class Writer:
    """Connects at the first write, and again after a failure. ``what``: the records it writes, for error messages."""

    def __init__(self, kafka: KafkaSettings, what: str) -> None:
        self._kafka = kafka
        self._what = what
        self._producer: Any = None

    async def require(self, topic: str) -> None:
        """Raise ``ConfigError`` when there is no such topic, ``BrokerUnavailable`` when Kafka cannot be asked."""
        producer = await self._connected()
        try:
            existing = (await producer.client.fetch_all_metadata()).topics()
        except (KafkaError, OSError, TimeoutError) as error:
            raise BrokerUnavailable(f"Kafka could not be asked about {topic}: {error!r}.") from error
        if topic not in existing:
            raise ConfigError(f"The topic {topic!r} does not exist.", hint="Run `tidewatch setup`.")

    async def write(self, outgoing: Iterable[Outgoing]) -> None:
        """Write the records, in order within each partition, and wait; bounded in time.

        Raises ``BrokerUnavailable`` when the write failed, or may have failed, and ``ConfigError`` when Kafka denies it.
        """
        producer = await self._connected()
        try:
            async with asyncio.timeout(self._kafka.request_timeout_seconds):
                sent = [
                    await producer.send(one.topic, one.value, key=one.key, headers=list(one.headers), partition=one.partition)
                    for one in outgoing
                ]
                await asyncio.gather(*sent)
        except (TopicAuthorizationFailedError, InvalidTopicError) as error:
            raise ConfigError(f"Kafka does not let us write {self._what}: {error}.", hint="Grant the user WRITE there.") from error
        except (KafkaError, OSError, TimeoutError) as error:
            await self.close()
            raise BrokerUnavailable(f"Kafka did not accept the {self._what}: {error!r}.") from error

    async def close(self) -> None:
        """Disconnect; bounded in time."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await disconnect(producer.stop())

    async def _connected(self) -> Any:
        if self._producer is None:
            self._producer = await connect(self._make, self._kafka)
        return self._producer

    def _make(self) -> Any:
        return AIOKafkaProducer(enable_idempotence=True, max_request_size=LARGEST_REQUEST, **kafka_client_options(self._kafka))
