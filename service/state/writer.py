"""A plain idempotent producer, for what may be written twice: dead letters of the later parts, reports, records sent again."""

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
    """Connects when there is first something to write, and anew after a failure. ``what`` it writes is for its errors to say."""

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
        """Write them, each partition's in order, and wait, for a bounded time.

        Raises ``BrokerUnavailable`` when it did not go through, or may not have, and ``ConfigError`` when Kafka does not let us.
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
            raise BrokerUnavailable(f"Kafka takes no {self._what}: {error!r}.") from error

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
