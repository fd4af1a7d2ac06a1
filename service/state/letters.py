"""Dead letters of the parts that read the alerts topic, written before their offset is committed; and every letter's way back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import InvalidTopicError, KafkaError, TopicAuthorizationFailedError

from service.domain import Record, Rejected
from service.errors import BrokerUnavailable, ConfigError
from service.kafka_options import connect, disconnect, kafka_client_options
from service.settings import KafkaSettings
from service.state.dead_letter import dead_letter
from service.state.producer import LARGEST_REQUEST


class DeadLetters:
    """Keeps what was rejected until ``flush``. At least once: a process that dies before it commits writes it again."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._kept: list[Rejected] = []
        self._producer: Any = None

    def keep(self, rejected: Rejected) -> None:
        """Have it written by the next ``flush``."""
        self._kept.append(rejected)

    async def flush(self) -> None:
        """Write what is kept. Raises ``BrokerUnavailable`` (it stays kept) or ``ConfigError``."""
        if not self._kept:
            return
        if self._producer is None:
            self._producer = await connect(self._make, self._kafka)
        topic = self._kafka.topics.dead_letter
        try:
            for rejected in list(self._kept):
                letter = dead_letter(rejected)
                await self._producer.send_and_wait(topic, letter.value, key=letter.key, headers=list(letter.headers), partition=0)
                self._kept.remove(rejected)
        except (TopicAuthorizationFailedError, InvalidTopicError) as error:
            raise ConfigError(f"Kafka does not let us write to {topic}: {error}.", hint="Grant the user WRITE on it.") from error
        except (KafkaError, OSError, TimeoutError) as error:
            await self.close()
            raise BrokerUnavailable(f"Kafka takes no dead letters: {error!r}.") from error

    async def close(self) -> None:
        """Disconnect; bounded in time."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await disconnect(producer.stop())

    def _make(self) -> Any:
        return AIOKafkaProducer(enable_idempotence=True, max_request_size=LARGEST_REQUEST, **kafka_client_options(self._kafka))


async def send_again(kafka: KafkaSettings, records: Sequence[Record]) -> None:
    """Write records to the topic and partition they came from, in order. Raises ``BrokerUnavailable`` or ``ConfigError``."""
    producer: Any = await connect(
        lambda: AIOKafkaProducer(enable_idempotence=True, max_request_size=LARGEST_REQUEST, **kafka_client_options(kafka)), kafka
    )
    try:
        for record in records:
            where = {"partition": record.partition, "headers": list(record.headers)}
            await producer.send_and_wait(record.topic, record.value, key=record.key, **where)
    except (TopicAuthorizationFailedError, InvalidTopicError) as error:
        raise ConfigError(f"Kafka does not let us write: {error}.", hint="Grant the user WRITE on the topic.") from error
    except (KafkaError, OSError, TimeoutError) as error:
        raise BrokerUnavailable(f"Kafka takes no records: {error!r}.") from error
    finally:
        await disconnect(producer.stop())
