"""One transactional producer per input partition: it fences a process that lost the partition without knowing it.

aiokafka sends no group generation with the offsets of a transaction, so the group itself does not fence. Only a new producer with
the same transactional id does: starting it completes or aborts the open transaction of its predecessor, and every later write of
the predecessor is refused. Therefore the id follows from group, topic and partition.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    IllegalOperation,
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)
from aiokafka.structs import OffsetAndMetadata

from service.errors import BrokerUnavailable, ConfigError
from service.kafka_options import Commit, connect, disconnect, kafka_client_options
from service.observability.tasks import retrieve_exception
from service.settings import KafkaSettings

LARGEST_REQUEST = 64 << 20  # a dead letter may be as large as any message of the metrics topic
BATCH_BYTES = 512 << 10  # half of a topic's default limit; aiokafka sends the batches of a partition one after the other
RETRY_BACKOFF_MS = 5  # with the default of 100 the 95th percentile of one commit was 131 ms, with this 34 ms
_REFUSED = (TopicAuthorizationFailedError, TransactionalIdAuthorizationFailed, GroupAuthorizationFailedError, InvalidTopicError)


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """One record to write: an explicit partition, never a hash of the key (producers' partitioners differ)."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()


class FencedProducer:
    """The only producer that may write the results of partition ``partition`` of ``topic`` for consumer group ``group``."""

    def __init__(self, kafka: KafkaSettings, *, group: str, topic: str, partition: int) -> None:
        self._kafka = kafka
        self._group = group
        self._input = TopicPartition(topic, partition)
        self._producer: Any = None
        self._lost = False
        self.transactional_id = f"tidewatch-{group}-{topic}-{partition}"

    async def claim(self) -> None:
        """Fence the former producer of this partition and end its open transaction.

        Raises ``BrokerUnavailable``, or ``ConfigError`` when Kafka denies it.
        """
        try:
            self._producer = await connect(self._make, self._kafka)
        except _REFUSED as error:
            raise _not_allowed(error) from error

    def _make(self) -> Any:
        return AIOKafkaProducer(
            transactional_id=self.transactional_id,
            transaction_timeout_ms=round(self.limit * 3000),
            retry_backoff_ms=RETRY_BACKOFF_MS,
            max_request_size=LARGEST_REQUEST,
            max_batch_size=BATCH_BYTES,
            compression_type="lz4",
            **kafka_client_options(self._kafka),
        )

    @property
    def limit(self) -> float:
        """Seconds a transaction may take."""
        return self._kafka.request_timeout_seconds

    async def commit(self, outgoing: Sequence[Outgoing], commit: Commit | None) -> None:
        """Write the records and the input's offset in one transaction.

        Raises ``BrokerUnavailable`` when it failed, or may have failed: the partition must be taken over again, which reads what
        Kafka has. Raises ``ConfigError`` when Kafka denies writing.
        """
        if self._lost or self._producer is None:
            raise BrokerUnavailable(f"{self.transactional_id} lost its partition.")
        try:
            async with asyncio.timeout(self.limit):
                await self._commit(outgoing, commit)
        except _REFUSED as error:
            raise _not_allowed(error) from error
        except MessageSizeTooLargeError as error:
            raise ConfigError(
                f"A record is too large for its topic: {error}.", hint="Raise max.message.bytes of that topic."
            ) from error
        except (KafkaError, OSError, TimeoutError, IllegalOperation) as error:  # the last: fenced between two sends
            self._lost = True
            raise BrokerUnavailable(f"The transaction of {self.transactional_id} failed: {error!r}.") from error

    async def _commit(self, outgoing: Sequence[Outgoing], commit: Commit | None) -> None:
        producer = self._producer
        await producer.begin_transaction()
        sent: list[Any] = []
        try:
            for (topic, partition), items in _by_partition(outgoing).items():
                async for future in self._send(topic, partition, items):
                    sent.append(future)  # noqa: PERF401  # the records before a failure are needed too
            for future in sent:
                await future
        finally:
            for future in sent:
                future.add_done_callback(retrieve_exception)
        if commit is not None:
            offsets = {self._input: OffsetAndMetadata(commit.offset, commit.metadata)}
            await producer.send_offsets_to_transaction(offsets, self._group)
        await producer.commit_transaction()

    async def _send(self, topic: str, partition: int, items: Sequence[Outgoing]) -> AsyncIterator[Any]:
        """Send the records in batches built here, which takes a tenth of the time of sending them one by one."""
        producer, batch = self._producer, None
        for item in items:
            where = {"key": item.key, "value": item.value, "headers": list(item.headers)}
            if batch is not None and batch.append(timestamp=None, **where) is not None:
                continue
            if batch is not None:
                yield await producer.send_batch(batch, topic, partition=partition)
            batch = producer.create_batch()
            batch.append(timestamp=None, **where)  # an empty batch accepts a record of any size
            if batch.size() > LARGEST_REQUEST:
                raise MessageSizeTooLargeError(f"{topic}: {batch.size():,} bytes")
        if batch is not None:
            yield await producer.send_batch(batch, topic, partition=partition)

    async def close(self) -> None:
        """Disconnect; bounded in time. An open transaction is aborted by the next ``claim`` of the partition."""
        producer, self._producer = self._producer, None
        if producer is None:
            return
        await disconnect(producer.stop())
        await disconnect(producer.client.close())  # which a cancelled stop leaves open
        # No public way to it: without this asyncio logs the failure of an aborted transaction as never retrieved.
        waiter = producer._txn_manager._transaction_waiter
        if waiter is not None and waiter.done():
            retrieve_exception(waiter)


def _by_partition(outgoing: Sequence[Outgoing]) -> dict[tuple[str, int], list[Outgoing]]:
    """By topic and partition, in order."""
    grouped: dict[tuple[str, int], list[Outgoing]] = {}
    for item in outgoing:
        grouped.setdefault((item.topic, item.partition), []).append(item)
    return grouped


def _not_allowed(error: Exception) -> ConfigError:
    return ConfigError(
        f"Kafka does not let us write: {error}.", hint="Grant the user WRITE on the topics and the transactional ids tidewatch-*."
    )
