"""One transactional producer for one input partition: what fences a process that lost the partition and does not know it.

aiokafka sends no group generation with the offsets of a transaction, so the group itself fences nobody. Only a new producer
with the same transactional id does: starting it settles the transaction its predecessor left open, and from then on whatever
that one still tries is refused. Therefore the id is fixed by group, topic and partition.
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
from service.kafka_options import Commit, connect, disconnect, kafka_client_options, retrieve_exception
from service.settings import KafkaSettings

LARGEST_REQUEST = 64 << 20  # a dead letter may be as large as anything the metrics topic took
BATCH_BYTES = 512 << 10  # half of what a topic takes by default; aiokafka sends the batches of a partition one after the other
RETRY_BACKOFF_MS = 5  # with the default of 100 the 95th percentile of one commit was 131 ms, with this 34 ms
_REFUSED = (TopicAuthorizationFailedError, TransactionalIdAuthorizationFailed, GroupAuthorizationFailedError, InvalidTopicError)


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """One record to write: an explicit partition, never a hash of the key (producers' partitioners differ)."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


class FencedProducer:
    """The one producer that may write what partition ``partition`` of ``topic`` led to, for consumer group ``group``."""

    def __init__(self, kafka: KafkaSettings, *, group: str, topic: str, partition: int) -> None:
        self._kafka = kafka
        self._group = group
        self._input = TopicPartition(topic, partition)
        self._producer: Any = None
        self._lost = False
        self.transactional_id = f"tidewatch-{group}-{topic}-{partition}"

    async def claim(self) -> None:
        """Fence whoever wrote for this partition before and settle what it left open.

        Raises ``BrokerUnavailable``, or ``ConfigError`` when Kafka does not let us.
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
        """Write the records and the input's offset, all or nothing.

        Raises ``BrokerUnavailable`` when it did not go through, or may not have: the partition must be taken over anew, which
        shows what Kafka has. Raises ``ConfigError`` when Kafka does not let us write.
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
                f"Kafka takes no record that large: {error}.", hint="Raise max.message.bytes of that topic."
            ) from error
        except (KafkaError, OSError, TimeoutError, IllegalOperation) as error:  # the last: fenced between two sends
            self._lost = True
            raise BrokerUnavailable(f"The transaction of {self.transactional_id} did not go through: {error!r}.") from error

    async def _commit(self, outgoing: Sequence[Outgoing], commit: Commit | None) -> None:
        producer = self._producer
        await producer.begin_transaction()
        arriving: list[Any] = []
        try:
            for (topic, partition), items in _by_place(outgoing).items():
                async for future in self._send(topic, partition, items):
                    arriving.append(future)  # noqa: PERF401  # those before a failure must be known too
            for future in arriving:
                await future
        finally:
            for future in arriving:
                future.add_done_callback(retrieve_exception)
        if commit is not None:
            offsets = {self._input: OffsetAndMetadata(commit.offset, commit.metadata)}
            await producer.send_offsets_to_transaction(offsets, self._group)
        await producer.commit_transaction()

    async def _send(self, topic: str, partition: int, items: Sequence[Outgoing]) -> AsyncIterator[Any]:
        """Hand the records over in batches made here: a tenth of the work of handing them over one by one."""
        producer, batch = self._producer, None
        for item in items:
            where = {"key": item.key, "value": item.value, "headers": list(item.headers)}
            if batch is not None and batch.append(timestamp=None, **where) is not None:
                continue
            if batch is not None:
                yield await producer.send_batch(batch, topic, partition=partition)
            batch = producer.create_batch()
            batch.append(timestamp=None, **where)  # an empty batch takes a record of any size
            if batch.size() > LARGEST_REQUEST:
                raise MessageSizeTooLargeError(f"{topic}: {batch.size():,} bytes")
        if batch is not None:
            yield await producer.send_batch(batch, topic, partition=partition)

    async def close(self) -> None:
        """Disconnect, waiting a little. What is still open is aborted by whoever claims the partition next."""
        producer, self._producer = self._producer, None
        if producer is None:
            return
        await disconnect(producer.stop())
        await disconnect(producer.client.close())  # which a stop that was cut off did not come to
        waiter = producer._txn_manager._transaction_waiter  # asyncio complains about a failure that nobody asked it for
        if waiter is not None and waiter.done():
            retrieve_exception(waiter)


def _by_place(outgoing: Sequence[Outgoing]) -> dict[tuple[str, int], list[Outgoing]]:
    """By topic and partition, in order."""
    places: dict[tuple[str, int], list[Outgoing]] = {}
    for item in outgoing:
        places.setdefault((item.topic, item.partition), []).append(item)
    return places


def _not_allowed(error: Exception) -> ConfigError:
    return ConfigError(
        f"Kafka does not let us write: {error}.", hint="Grant the user WRITE on the topics and the transactional ids tidewatch-*."
    )
