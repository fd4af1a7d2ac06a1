"""Reads ``tidewatch.alerts`` for the store and notify parts; each commits only what it has finished. The store part also reads
deliveries (``tidewatch.notifications``), in the same group.

aiokafka 0.14 decides the shape. ``getmany`` is never cancelled. It is called even while a batch is in work, with the partitions
paused, because a consumer that does not poll is removed from its group. Nothing slow happens in the rebalance listener. The group
is left on close.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import msgspec
import stamina
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    CommitFailedError,
    GroupAuthorizationFailedError,
    IllegalGenerationError,
    KafkaError,
    RebalanceInProgressError,
    TopicAuthorizationFailedError,
    UnknownMemberIdError,
)

from service.alerts.topics import deliveries
from service.alerts.topics.deliveries import Delivery
from service.alerts.topics.transitions import decode_transition
from service.domain import Alert, Record, Rejected
from service.errors import BrokerUnavailable, ConfigError, InvalidMessage
from service.kafka_options import check_topic_exists, connect, disconnect, kafka_client_options
from service.observability.logging import get_logger
from service.settings import KafkaSettings

T = TypeVar("T")
POLL_MS = 500

log = get_logger("alerts")


class Positioned(msgspec.Struct, frozen=True):
    """A transition and its position in the topic."""

    alert: Alert
    partition: int
    offset: int


class AlertBatch(msgspec.Struct, frozen=True):
    """Transitions in offset order, and deliveries. ``next_offsets``: (topic, partition) to the offset after the last record read
    (bad ones included). ``turn``: the number of the assignment; a batch read before a rebalance can no longer be committed."""

    transitions: Sequence[Positioned]
    next_offsets: dict[tuple[str, int], int]
    turn: int
    deliveries: Sequence[Delivery] = ()

    @property
    def alerts(self) -> list[Alert]:
        """The transitions without their positions."""
        return [item.alert for item in self.transitions]


class AlertTopicReader:
    """One member of the consumer group ``<group_prefix>.<role>`` on the alerts topic.

    ``on_poison(rejected)`` is called for every record that cannot be decoded; the reader skips it.
    ``with_deliveries``: read the notifications topic too.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        role: str,
        *,
        on_poison: Callable[[Rejected], None],
        max_records: int = 500,
        with_deliveries: bool = False,
    ) -> None:
        self._kafka = kafka
        self._topic = kafka.topics.alerts
        self._topics = [self._topic, kafka.topics.notifications] if with_deliveries else [self._topic]
        self.group = f"{kafka.group_prefix}.{role}"
        self._on_poison = on_poison
        self._max_records = max_records
        self._consumer: Any = None
        self._stopping = False
        self._busy = False
        self._turn = 0
        self._rejoining = False

    async def start(self) -> None:
        """Connect and join the group. Raises ``BrokerUnavailable``, or ``ConfigError`` when credentials are refused."""
        admin: Any = await connect(lambda: AIOKafkaAdminClient(**kafka_client_options(self._kafka)), self._kafka)
        try:
            existing = await admin.list_topics()
            for topic in self._topics:
                check_topic_exists(existing, topic)
        finally:
            await admin.close()
        self._consumer = await connect(self._make, self._kafka)

    def _make(self) -> Any:
        consumer = AIOKafkaConsumer(
            group_id=self.group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            session_timeout_ms=round(self._kafka.session_timeout_seconds * 1000),
            heartbeat_interval_ms=round(self._kafka.session_timeout_seconds * 1000 / 3),
            max_poll_records=self._max_records,
            **kafka_client_options(self._kafka),
        )
        consumer.subscribe(self._topics, listener=_RebalanceListener(self))
        return consumer

    async def batches(self) -> AsyncIterator[AlertBatch]:
        """Batches until ``request_stop``; an empty one about every half second when nothing comes."""
        while not self._stopping:
            if self._rejoining and not await self._rejoin():
                yield AlertBatch([], {}, self._turn)
                continue
            turn = self._turn
            try:
                fetched = await self._consumer.getmany(timeout_ms=POLL_MS, max_records=self._max_records)
            except (TopicAuthorizationFailedError, GroupAuthorizationFailedError) as error:
                raise ConfigError(
                    f"Kafka does not let group {self.group} read {' or '.join(self._topics)}.", hint="Grant the ACLs."
                ) from error
            if turn != self._turn:  # rebalanced while fetching: the records are read again in the new turn
                self._rewind(fetched)
                continue
            yield self._decoded(fetched, turn)

    async def alongside(self, work: Awaitable[T]) -> T:
        """Await ``work`` while staying in the group: keep polling, with every partition paused."""
        task = asyncio.ensure_future(work)
        self._busy = True
        try:
            self._consumer.pause(*self._consumer.assignment())
            while not task.done():
                await asyncio.wait([task], timeout=0.2)
                if not task.done():
                    await self._consumer.getmany(timeout_ms=0)
            return task.result()
        finally:
            self._busy = False
            task.cancel()
            self._consumer.resume(*self._consumer.assignment())

    async def commit(self, next_offsets: dict[tuple[str, int], int], turn: int) -> bool:
        """Commit ``(topic, partition) -> next offset`` read in ``turn``. False after a rebalance, or when Kafka took no commit for
        30 s: what is not committed is read again, and storing it again changes nothing."""
        assigned = self._consumer.assignment()
        offsets = {tp: offset for at, offset in next_offsets.items() if (tp := TopicPartition(*at)) in assigned}
        if turn != self._turn or not offsets:
            return False
        try:
            async for attempt in stamina.retry_context(on=_is_transient, attempts=None, timeout=30.0):
                with attempt:
                    await self._consumer.commit(offsets)
        except (CommitFailedError, IllegalGenerationError, UnknownMemberIdError, RebalanceInProgressError):
            return False
        except KafkaError as error:
            log.warning("Kafka takes no commits now", group=self.group, error=str(error))
            return False
        return True

    @property
    def assigned(self) -> bool:
        """True when this member has a partition; false for one that stands by."""
        return bool(self._consumer.assignment())

    def seek(self, offset: int | None) -> None:
        """Continue at this offset; None: from the beginning. Only for one partition."""
        for tp in self._consumer.assignment():
            self._consumer.seek(tp, 0 if offset is None else offset)

    def rejoin(self) -> None:
        """Join the group as a new member before the next batch, to learn which partitions are ours now."""
        self._rejoining = True

    def request_stop(self) -> None:
        """End ``batches`` after the batch in hand."""
        self._stopping = True

    async def close(self) -> None:
        """Leave the group and disconnect; bounded, also while Kafka is away."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await disconnect(consumer.stop())

    async def _rejoin(self) -> bool:
        await self.close()
        try:
            self._consumer = await connect(self._make, self._kafka)
        except BrokerUnavailable as error:
            log.warning("cannot join the group anew yet", group=self.group, error=str(error))
            return False
        self._turn += 1
        self._rejoining = False
        return True

    def _decoded(self, fetched: dict[Any, list[Any]], turn: int) -> AlertBatch:
        transitions: list[Positioned] = []
        read: list[Delivery] = []
        next_offsets: dict[tuple[str, int], int] = {}
        for tp, messages in fetched.items():
            for message in messages:
                next_offsets[tp.topic, tp.partition] = message.offset + 1
                try:
                    if tp.topic == self._topic:
                        transitions.append(Positioned(decode_transition(message.value), tp.partition, message.offset))
                    else:
                        read.append(deliveries.decode(message.value))
                except InvalidMessage as error:
                    self._on_poison(Rejected(_record(message), error.reason, str(error)))
                except Exception as error:
                    log.exception("a record cannot be decoded", topic=tp.topic, offset=message.offset)
                    self._on_poison(Rejected(_record(message), "undecodable", f"The record cannot be decoded: {error!r}."))
        return AlertBatch(transitions, next_offsets, turn, read)

    def _rewind(self, fetched: dict[Any, list[Any]]) -> None:
        """Read these records again. Not from the committed offset: there is none before the first commit, and aiokafka's
        ``seek_to_committed`` then leaves the position behind what was fetched."""
        assigned = self._consumer.assignment()
        for tp, messages in fetched.items():
            if tp in assigned and messages:
                self._consumer.seek(tp, messages[0].offset)

    def _assignment_changed(self, assigned: Sequence[Any]) -> None:
        self._turn += 1
        if self._busy and assigned:
            self._consumer.pause(*assigned)


class _RebalanceListener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """Only counts and pauses: no heartbeat runs while this does."""

    def __init__(self, reader: AlertTopicReader) -> None:
        self._reader = reader

    async def on_partitions_revoked(self, revoked: Any) -> None:  # noqa: ARG002 - the signature is aiokafka's
        self._reader._assignment_changed(())

    async def on_partitions_assigned(self, assigned: Any) -> None:
        self._reader._assignment_changed(list(assigned))


def _is_transient(error: Exception) -> bool:
    lost = (CommitFailedError, IllegalGenerationError, UnknownMemberIdError, RebalanceInProgressError)
    return isinstance(error, KafkaError) and not isinstance(error, lost)


def _record(message: Any) -> Record:
    return Record(
        message.topic, message.partition, message.offset, message.timestamp, message.key, message.value, tuple(message.headers)
    )
