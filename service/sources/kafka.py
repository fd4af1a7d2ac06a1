"""Records from the metrics topic, and where to go on after a restart or a rebalance.

What aiokafka 0.14 does decides the shape (all of it was tried):

- ``getmany`` is never cancelled (it would leak its fetch counter and switch the max-poll detection off).
- No heartbeat runs while a rebalance listener works, and what it raises is swallowed. So the assigned-listener only pauses
  and notes; offsets are read and positions set by the main loop, in ``_take_over``.
- The revoked-listener waits, bounded, until the batch in hand is committed, so that a clean rebalance repeats nothing.
- Rebalances are eager: every partition is revoked and handed out again. One that comes straight back, committed just
  behind the last record we handed on, keeps its windows.
- Static membership is broken there (two members keep one partition), so the group is left on close.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    CommitFailedError,
    GroupAuthorizationFailedError,
    IllegalGenerationError,
    IllegalStateError,
    KafkaError,
    RebalanceInProgressError,
    TopicAuthorizationFailedError,
    UnknownMemberIdError,
)

from service.domain import Record
from service.errors import BrokerUnavailable, ConfigError
from service.kafka_options import Commit, connect, kafka_client_options
from service.observability.logging import get_logger
from service.settings import KafkaSettings, Settings
from service.sources.base import RecordBatch

log = get_logger("source")

POLL_MS = 200  # how long an idle poll waits; a record that arrives ends it at once
FETCH_BYTES = 1 << 20  # a partition's share of one fetch; a larger message still comes, alone
LOST = (CommitFailedError, IllegalGenerationError, IllegalStateError, RebalanceInProgressError, UnknownMemberIdError)


class KafkaSource:
    """One member of the group ``<group_prefix>.scoring`` on the metrics topic.

    ``on_dropped(partitions)`` is called, from the main loop, for partitions whose windows must be forgotten: those that
    went to another member, and those that will be refilled from the topic.
    """

    def __init__(self, settings: Settings, *, on_dropped: Callable[[Collection[int]], None]) -> None:
        self._kafka = settings.kafka
        self._limits = settings.stream
        self._topic = settings.kafka.topics.metrics
        self._on_dropped = on_dropped
        self.group = f"{settings.kafka.group_prefix}.scoring"
        self._consumer: Any = None
        self._stopping = False
        self._turn = 0  # assignments so far
        self._taken = 0  # the assignment whose positions are set
        self._batch_turn = 0  # the assignment the batch in hand was read in
        self._revoking = False
        self._handed: dict[int, int] = {}  # by partition, the offset behind the last record handed on
        self._resume_at: dict[int, int] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    async def start(self) -> None:
        """Connect and join the group. Raises ``BrokerUnavailable``, or ``ConfigError`` for credentials or a missing topic."""
        await require_topic(self._kafka, self._topic)
        await connect(self._make_consumer, self._kafka)

    def _make_consumer(self) -> Any:
        session_ms = round(self._kafka.session_timeout_seconds * 1000)
        # Known before it starts: partitions may be assigned while start() still waits.
        self._consumer = AIOKafkaConsumer(
            group_id=self.group,
            enable_auto_commit=False,
            auto_offset_reset=self._limits.start_from,
            isolation_level="read_committed",
            session_timeout_ms=session_ms,
            heartbeat_interval_ms=session_ms // 3,
            max_partition_fetch_bytes=FETCH_BYTES,
            **kafka_client_options(self._kafka),
        )
        self._consumer.subscribe([self._topic], listener=_Listener(self))
        return self._consumer

    async def batches(self) -> AsyncIterator[RecordBatch]:
        """Batches until ``request_stop``; an empty one when nothing came for a moment."""
        while not self._stopping:
            await self._take_over()
            turn = self._turn
            try:
                fetched = await self._consumer.getmany(timeout_ms=POLL_MS, max_records=self._limits.max_batch_records)
            except (TopicAuthorizationFailedError, GroupAuthorizationFailedError) as error:
                raise ConfigError(
                    f"Kafka does not let group {self.group} read {self._topic}.", hint="Grant the user READ on both."
                ) from error
            if self._revoking or turn != self._turn:
                continue  # rebalanced meanwhile: _take_over sets every position anew, so nothing fetched is lost
            records = [_record(message) for messages in fetched.values() for message in messages]
            self._handed.update({tp.partition: messages[-1].offset + 1 for tp, messages in fetched.items() if messages})
            self._batch_turn = turn
            self._idle.clear()
            try:
                yield RecordBatch(records, dict(self._resume_at))
            finally:
                self._idle.set()

    async def commit(self, offsets: Mapping[int, Commit]) -> None:
        """Commit for the batch in hand. Partitions that were revoked meanwhile are left to their new owner, and those that
        are still being refilled stay where they are.

        Raises ``BrokerUnavailable`` when Kafka does not take it now.
        """
        if self._batch_turn != self._turn:
            return
        told = {
            TopicPartition(self._topic, at): (commit.offset, commit.metadata)
            for at, commit in offsets.items()
            if commit.offset >= self._resume_at.get(at, 0)
        }
        if not told:
            return
        try:
            await self._consumer.commit(told)
        except LOST:
            log.info("commit refused: the partitions have a new owner", partitions=sorted(offsets))
            return
        except (KafkaError, OSError) as error:
            raise BrokerUnavailable(f"Kafka takes no commits of group {self.group}: {error}.") from error

    def lag(self) -> dict[int, int]:
        """Records each assigned partition is behind, as far as Kafka told."""
        behind = {}
        for tp in self._consumer.assignment():
            newest = self._consumer.last_stable_offset(tp)
            if newest is not None and tp.partition in self._handed:
                behind[tp.partition] = max(0, newest - self._handed[tp.partition])
        return behind

    def request_stop(self) -> None:
        """End ``batches`` after the batch in hand."""
        self._stopping = True

    async def close(self) -> None:
        """Leave the group and disconnect."""
        if self._consumer is not None:
            await self._consumer.stop()

    async def _take_over(self) -> None:
        """Set the positions of a new assignment. While Kafka is away everything stays paused and it is tried again."""
        turn = self._turn
        if turn == self._taken:
            return
        assigned = {tp.partition: tp for tp in self._consumer.assignment()}
        try:
            starts = await self._starts(list(assigned.values())) if assigned else {}
        except (KafkaError, OSError, BrokerUnavailable) as error:
            log.warning("cannot read the committed offsets yet", error=str(error))
            await asyncio.sleep(POLL_MS / 1000)
            return
        if turn != self._turn:
            return  # revoked again while we asked
        kept = {at for at, (_, resume_at) in starts.items() if self._handed.get(at) == resume_at}
        forget = (set(self._resume_at) | set(starts)) - kept
        if forget:
            self._on_dropped(sorted(forget))
        for at, (rewind_to, resume_at) in starts.items():
            self._consumer.seek(assigned[at], resume_at if at in kept else rewind_to)
        self._handed = {at: resume_at if at in kept else rewind_to for at, (rewind_to, resume_at) in starts.items()}
        self._resume_at = {at: self._resume_at[at] if at in kept else resume_at for at, (_, resume_at) in starts.items()}
        self._consumer.resume(*assigned.values())
        self._taken = turn
        refill = sum(resume_at - rewind_to for at, (rewind_to, resume_at) in starts.items() if at not in kept)
        log.info("partitions taken over", partitions=sorted(starts), kept=sorted(kept), refill_records=refill)

    async def _starts(self, partitions: list[Any]) -> dict[int, tuple[int, int]]:
        """By partition: where to begin reading, and the first offset to score."""
        admin = await connect(lambda: AIOKafkaAdminClient(**kafka_client_options(self._kafka)), self._kafka)
        try:
            committed = await admin.list_consumer_group_offsets(self.group, partitions=partitions)
        finally:
            await admin.close()
        first = await self._consumer.beginning_offsets(partitions)
        end = await self._consumer.end_offsets(partitions)
        starts = {}
        for tp in partitions:
            found = committed.get(tp)
            if found is None or found.offset < 0 or found.offset > end[tp]:  # never committed, or the topic was made anew
                begin = first[tp] if self._limits.start_from == "earliest" else end[tp]
                starts[tp.partition] = (begin, begin)
                continue
            commit = Commit.read(found.offset, found.metadata)
            resume_at = max(commit.offset, first[tp])
            oldest = resume_at if commit.oldest is None else commit.oldest
            rewind_to = min(resume_at, max(oldest, resume_at - self._limits.max_rewind_records, first[tp]))
            starts[tp.partition] = (rewind_to, resume_at)
        return starts

    def _assigned(self, partitions: Collection[Any]) -> None:
        self._turn += 1
        self._revoking = False
        self._consumer.pause(*partitions)

    async def _revoked(self) -> None:
        self._revoking = True
        # Long enough for a batch to be scored and committed, short enough to stay in the group.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), self._kafka.session_timeout_seconds / 3)
        self._turn += 1


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """Only waits, pauses and notes."""

    def __init__(self, source: KafkaSource) -> None:
        self._source = source

    async def on_partitions_revoked(self, revoked: Collection[Any]) -> None:
        if revoked:
            await self._source._revoked()

    async def on_partitions_assigned(self, assigned: Collection[Any]) -> None:
        self._source._assigned(assigned)


async def require_topic(kafka: KafkaSettings, topic: str) -> list[Any]:
    """The topic's partitions. Raises ``ConfigError`` when it does not exist, ``BrokerUnavailable`` when nothing answers."""
    admin = await connect(lambda: AIOKafkaAdminClient(**kafka_client_options(kafka)), kafka)
    try:
        if topic not in await admin.list_topics():
            raise ConfigError(
                f"The topic {topic!r} does not exist.", hint="Run `tidewatch setup`, or check kafka.topics in the settings."
            )
        described = await admin.describe_topics([topic])
    finally:
        await admin.close()
    return [TopicPartition(topic, at) for at in sorted(part["partition"] for part in described[0]["partitions"])]


async def read_range(
    kafka: KafkaSettings, topic: str, *, since_ms: int | None, last_records: int | None
) -> AsyncIterator[list[Record]]:
    """The records of all partitions from ``since_ms`` (record time) on, or the last ones, up to where the topic ends now.

    At most ``last_records`` of them, an equal share of each partition. Raises ``BrokerUnavailable`` or ``ConfigError``.
    """
    partitions = await require_topic(kafka, topic)
    options = kafka_client_options(kafka)
    consumer: Any = await connect(lambda: AIOKafkaConsumer(isolation_level="read_committed", **options), kafka)
    try:
        consumer.assign(partitions)
        first, end = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
        begin = dict(first)
        if since_ms is not None:
            found = await consumer.offsets_for_times(dict.fromkeys(partitions, since_ms))
            begin = {tp: end[tp] if found[tp] is None else found[tp].offset for tp in partitions}
        if last_records is not None:
            share = -(-last_records // len(partitions))
            begin = {tp: max(begin[tp], end[tp] - share) for tp in partitions}
        for tp in partitions:
            consumer.seek(tp, begin[tp])
        wanted = [tp for tp in partitions if begin[tp] < end[tp]]
        while wanted:
            fetched = await consumer.getmany(*wanted, timeout_ms=POLL_MS, max_records=10_000)
            yield [_record(message) for tp, messages in fetched.items() for message in messages if message.offset < end[tp]]
            wanted = [tp for tp in wanted if await consumer.position(tp) < end[tp]]
    finally:
        await consumer.stop()


def _record(message: Any) -> Record:
    headers = tuple(message.headers) if message.headers else ()
    return Record(message.topic, message.partition, message.offset, message.timestamp, message.key, message.value, headers)
