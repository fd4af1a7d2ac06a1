"""How what a batch led to, and how far the input was read, reach Kafka together.

``AtLeastOnceOutbox`` produces, waits until everything is acknowledged by all replicas, and only then commits the offsets: a
kill in between repeats the batch, and what it repeats has the same ids. The transactional form (one fenced producer an
input partition) has the same seam.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
import stamina
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import InvalidTopicError, KafkaError, TopicAuthorizationFailedError

from service.domain import Alert, Rejected
from service.errors import BrokerUnavailable, ConfigError
from service.kafka_options import Commit, connect, kafka_client_options
from service.observability.logging import get_logger
from service.settings import KafkaSettings
from service.state.dead_letter import DeadLetter, dead_letter, truncated

log = get_logger("outbox")

LARGEST_REQUEST = 64 << 20  # a dead letter may be as large as anything the metrics topic took
AT_ONCE = 500  # records waiting for their acknowledgement
OVERHEAD = 512  # bytes of a batch's and a record's own headers, generously


class Outbox(Protocol):
    """Where a batch's results go. ``emit`` returns when they and the offsets are safe."""

    async def start(self) -> None:
        """Connect. Raises ``BrokerUnavailable`` or ``ConfigError``."""
        ...

    async def emit(self, *, alerts: Sequence[Alert], rejected: Sequence[Rejected], offsets: Mapping[int, Commit]) -> None:
        """Write transitions, in order, and dead letters; then commit ``offsets`` (by input partition).

        Waits as long as Kafka is away. Raises ``ConfigError`` when a topic must not be written.
        """
        ...

    async def close(self) -> None:
        """Disconnect."""
        ...


class Outgoing(msgspec.Struct, frozen=True):
    """One record to write: an explicit partition, never a hash of the key (producers' partitioners differ)."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


class AtLeastOnceOutbox:
    """Produce, flush, then commit. ``commit`` is the source's own, which knows the group's generation."""

    def __init__(self, kafka: KafkaSettings, *, commit: Callable[[Mapping[int, Commit]], Awaitable[None]]) -> None:
        self._kafka = kafka
        self._commit = commit
        self._producer: Any = None
        self._dead_letter_partitions = 1
        self._largest_dead_letter = 1_000_000

    async def start(self) -> None:
        """Connect. Raises ``BrokerUnavailable``, or ``ConfigError`` for refused credentials and missing topics."""
        topics = self._kafka.topics
        admin: Any = await connect(lambda: AIOKafkaAdminClient(**kafka_client_options(self._kafka)), self._kafka)
        try:
            existing = await admin.list_topics()
            missing = [topic for topic in (topics.alerts, topics.dead_letter) if topic not in existing]
            if missing:
                raise ConfigError(f"The topic {missing[0]!r} does not exist.", hint="Run `tidewatch setup`.")
            described = await admin.describe_topics([topics.dead_letter])
            self._dead_letter_partitions = len(described[0]["partitions"])
            configs = await topic_configs(admin, topics.dead_letter)
            self._largest_dead_letter = int(configs.get("max.message.bytes", self._largest_dead_letter))
        finally:
            await admin.close()
        self._producer = await connect(self._make_producer, self._kafka)

    def _make_producer(self) -> Any:
        return AIOKafkaProducer(
            enable_idempotence=True,
            acks="all",
            linger_ms=2,
            max_request_size=LARGEST_REQUEST,
            **kafka_client_options(self._kafka),
        )

    async def emit(self, *, alerts: Sequence[Alert], rejected: Sequence[Rejected], offsets: Mapping[int, Commit]) -> None:
        """See ``Outbox.emit``."""
        outgoing = [Outgoing(self._kafka.topics.alerts, 0, alert.alert_id.encode(), msgspec.json.encode(alert)) for alert in alerts]
        outgoing += [self._outgoing(item) for item in rejected]
        for begin in range(0, len(outgoing), AT_ONCE):
            await self._until_taken(outgoing[begin : begin + AT_ONCE])
        async for attempt in _patiently():
            with attempt:
                await self._commit(offsets)

    async def close(self) -> None:
        """Disconnect; everything emitted was acknowledged already."""
        if self._producer is not None:
            await self._producer.stop()

    def _outgoing(self, rejected: Rejected) -> Outgoing:
        letter = dead_letter(rejected)
        if _size(letter) > min(self._largest_dead_letter, LARGEST_REQUEST):
            letter = truncated(letter, self._largest_dead_letter - OVERHEAD)
        partition = max(rejected.record.partition, 0) % self._dead_letter_partitions
        return Outgoing(self._kafka.topics.dead_letter, partition, letter.key, letter.value, letter.headers)

    async def _until_taken(self, outgoing: Sequence[Outgoing]) -> None:
        """Write until all are acknowledged, however long that takes; what failed goes again with all behind it, in order."""
        waiting = list(outgoing)
        async for attempt in _patiently():
            with attempt:
                if self._producer is None:
                    self._producer = await connect(self._make_producer, self._kafka)
                waiting = await self._write(waiting)
                if waiting:
                    log.warning("Kafka takes no records now; waiting for it", records=len(waiting))
                    await self._drop_producer()
                    raise BrokerUnavailable(f"Kafka at {self._kafka.bootstrap_servers} takes no records.")

    async def _write(self, outgoing: Sequence[Outgoing]) -> list[Outgoing]:
        """Write each once; those from the first failure on are given back."""
        futures: list[Any] = []
        taken = 0
        try:
            for item in outgoing:  # not a comprehension: what was sent before a failure must be waited for
                futures.append(  # noqa: PERF401 - see above
                    await self._producer.send(
                        item.topic, item.value, key=item.key, partition=item.partition, headers=list(item.headers)
                    )
                )
            for future in futures:
                await future
                taken += 1
        except (TopicAuthorizationFailedError, InvalidTopicError) as error:
            raise ConfigError(f"Kafka does not let us write: {error}.", hint="Grant the user WRITE on the topics.") from error
        except (KafkaError, OSError, TimeoutError) as error:
            log.debug("a write failed", error=repr(error))
            await asyncio.gather(*futures, return_exceptions=True)  # nothing of this round may arrive after the next
        return list(outgoing[taken:])

    async def _drop_producer(self) -> None:
        """A producer that failed may have a hole in its sequence numbers; the next one starts clean."""
        producer, self._producer = self._producer, None
        with contextlib.suppress(KafkaError, OSError, TimeoutError):
            await asyncio.wait_for(producer.stop(), self._kafka.request_timeout_seconds)


async def topic_configs(admin: Any, topic: str) -> dict[str, str]:
    """The configuration of a topic, as the broker tells it."""
    responses = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    return {str(entry[0]): str(entry[1]) for response in responses for resource in response.resources for entry in resource[4]}


def _size(letter: DeadLetter) -> int:
    headers = sum(len(name) + len(value) + 10 for name, value in letter.headers)
    return len(letter.key or b"") + len(letter.value or b"") + headers + OVERHEAD


def _patiently() -> AsyncIterator[stamina.Attempt]:
    """Tries that never end: Kafka comes back, or a person stops the process."""
    return stamina.retry_context(on=BrokerUnavailable, attempts=None, timeout=None, wait_initial=0.1, wait_max=5.0)
