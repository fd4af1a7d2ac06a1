"""The metrics topic as batches of records, and where reading resumes after a restart or a rebalance.

aiokafka 0.14 sets the form (each of these was tried):

- ``getmany`` is never cancelled: that would leak its fetch counter and disable max-poll detection. It is called only when the
  owner can process the result, so that waiting records stay in aiokafka's buffer, where more can join them.
- While a rebalance listener runs there are no heartbeats, and its exceptions are swallowed. So the assigned-listener only pauses
  the partitions; the main loop takes them over, in ``_take_over``.
- The revoked-listener waits, for a bounded time, until the batches in flight are committed: a clean rebalance repeats nothing.
- Rebalances are eager: every partition is revoked and assigned again. One that comes straight back with all its batches finished
  keeps its windows and its producer; had another process owned it meanwhile, the next transaction would be refused.
- Static membership is broken (two members keep one partition), so ``close`` leaves the group.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import GroupAuthorizationFailedError, KafkaError, TopicAuthorizationFailedError

from service.domain import Record
from service.errors import BrokerUnavailable, ConfigError
from service.kafka_options import Commit, connect, disconnect, kafka_client_options
from service.observability.logging import get_logger
from service.runtime import unless_set
from service.settings import Settings
from service.sources.base import Owner, RecordBatch
from service.sources.rebalances import RebalanceListener
from service.sources.topic_range import require_topic

log = get_logger("source")

POLL_MS = 200  # longest wait of a poll; the first record ends it
POLL_RECORDS = 4000  # per poll: aiokafka unpacks them on the event loop, in about 12 ms
METADATA_MS = 5_000  # how soon new partitions, and a topic made anew, are seen
TRY_AGAIN_SECONDS = 10.0  # to take over partitions that nobody can own yet
FETCH_BYTES = 4 << 20  # per partition and fetch, enough for a full batch; a larger message is fetched alone


class KafkaSource:
    """One member of the group ``<group_prefix>.scoring`` on the metrics topic."""

    def __init__(self, settings: Settings, max_records: int | None = None) -> None:
        """``max_records``: upper bound for a batch, beside ``stream.max_batch_records``."""
        self._kafka = settings.kafka
        self._limits = settings.stream
        self._max_records = min(settings.stream.max_batch_records, max_records or settings.stream.max_batch_records)
        self._topic = settings.kafka.topics.metrics
        self.group = f"{settings.kafka.group_prefix}.scoring"
        self._consumer: Any = None
        self._listener: RebalanceListener | None = None
        self._stop = asyncio.Event()
        self._assignment = 0  # number of the newest assignment
        self._positioned = 0  # number of the assignment whose partitions were taken over and positioned
        self._revoking = False
        self._owned: set[int] = set()  # partitions the owner has taken over and not released
        self._lost: set[int] = set()
        self._unowned: list[int] = []  # assigned, and the owner cannot own them now
        self._try_again_at = 0.0
        self._delivered: dict[int, int] = {}  # by partition: the offset behind the last delivered record
        self._finished: dict[int, int] = {}  # the same, of the batches that the owner has finished
        self._resume_at: dict[int, int] = {}
        self._in_flight = 0  # batches delivered and not finished
        self._idle = asyncio.Event()  # set while none is in flight
        self._idle.set()

    async def start(self) -> None:
        """Connect and join the group. Raises ``BrokerUnavailable``, or ``ConfigError`` for credentials or a missing topic."""
        await require_topic(self._kafka, self._topic)
        await connect(self._make_consumer, self._kafka)

    def _make_consumer(self) -> Any:
        session_ms = round(self._kafka.session_timeout_seconds * 1000)
        # Set before start(): partitions may be assigned while start() still waits.
        self._consumer = AIOKafkaConsumer(
            group_id=self.group,
            enable_auto_commit=False,
            auto_offset_reset=self._limits.start_from,
            isolation_level="read_committed",
            session_timeout_ms=session_ms,
            heartbeat_interval_ms=session_ms // 3,
            max_partition_fetch_bytes=FETCH_BYTES,
            metadata_max_age_ms=METADATA_MS,
            **kafka_client_options(self._kafka),
        )
        if self._listener is not None:
            self._listener.detach()  # of the consumer that could not start
        self._listener = RebalanceListener(self._on_assigned, self._on_revoked)
        self._consumer.subscribe([self._topic], listener=self._listener)
        return self._consumer

    async def batches(self, owner: Owner) -> AsyncIterator[RecordBatch]:
        """Batches until ``request_stop``; an empty one when nothing arrived for a moment, or Kafka is away.

        ``owner`` processes them and calls ``batch_done`` once for each, in any order. Only when none is in flight is it called to
        take over and to release partitions. Raises ``ConfigError`` when Kafka denies reading.
        """
        while not self._stop.is_set():
            if not await self._ready(owner):
                self._deliver()
                yield RecordBatch([], {})
                continue
            assignment = self._assignment
            fetched = await self._fetch()
            if self._lost or self._revoking or assignment != self._assignment or assignment != self._positioned:
                continue  # rebalanced meanwhile: _take_over sets every position again, so nothing fetched is lost
            if anew := {tp.partition for tp, messages in fetched.items() if messages[0].offset < self._delivered[tp.partition]}:
                log.warning(
                    "the topic was made anew; its partitions are taken over again", topic=self._topic, partitions=sorted(anew)
                )
                self._lost |= anew
                continue
            # aiokafka's records have every field of a Record; copying each would take a tenth of this thread's time.
            records: list[Record] = [message for messages in fetched.values() for message in messages]
            self._delivered.update({tp.partition: messages[-1].offset + 1 for tp, messages in fetched.items() if messages})
            self._deliver()
            yield RecordBatch(records, dict(self._resume_at))

    def _deliver(self) -> None:
        self._in_flight += 1
        self._idle.clear()

    def batch_done(self) -> None:
        """One batch is finished: committed, or given up after a failure."""
        self._in_flight -= 1
        if not self._in_flight:
            self._finished = dict(self._delivered)
            self._idle.set()

    async def _fetch(self) -> dict[Any, list[Any]]:
        """The records that have arrived, by partition; empty when none arrive within ``POLL_MS``."""
        fetched: dict[Any, list[Any]] = {}
        room = await self._drain(fetched, self._max_records)
        # The first poll returns old records only: aiokafka does not fetch while its buffer is full. Poll once more so that fresh
        # records share the batch.
        await self._drain(fetched, room, POLL_MS if not fetched else self._limits.max_delay_ms)
        return fetched

    async def _drain(self, into: dict[Any, list[Any]], room: int, wait_ms: int = 0) -> int:
        """Poll up to ``room`` records into ``into``, waiting ``wait_ms`` for the first; the room that is left."""
        while room:
            polled = await self._poll(wait_ms, min(room, POLL_RECORDS))
            if not polled:
                break
            for partition, messages in polled.items():
                into.setdefault(partition, []).extend(messages)
                room -= len(messages)
            wait_ms = 0
            await asyncio.sleep(0)  # unpacking held the event loop
        return room

    async def _poll(self, timeout_ms: int, max_records: int) -> dict[Any, list[Any]]:
        try:
            return dict(await self._consumer.getmany(timeout_ms=timeout_ms, max_records=max_records))
        except (TopicAuthorizationFailedError, GroupAuthorizationFailedError) as error:
            raise ConfigError(
                f"Kafka does not let group {self.group} read {self._topic}.", hint="Grant the user READ on both."
            ) from error

    def mark_lost(self, partitions: Collection[int]) -> None:
        """The owner may have lost these partitions; they are taken over again. To be called before the batch is done."""
        self._lost |= set(partitions)

    @property
    def reading(self) -> bool:
        """True while the assigned partitions are read; False while they are taken over, or Kafka is away."""
        return self._positioned == self._assignment and self._assignment > 0 and not self._lost

    @property
    def trouble(self) -> str | None:
        """What keeps records from being read although Kafka answers, as a sentence; None: nothing does."""
        if self._consumer is not None and not self._consumer.partitions_for_topic(self._topic):
            return f"the topic {self._topic} does not exist; run `tidewatch setup`"
        if self._unowned:
            return f"partitions {self._unowned} of {self._topic} are not read: the state topic has too few; run `tidewatch setup`"
        return None

    def refilled(self) -> dict[int, int]:
        """By partition whose windows are refilled: the offset behind the last delivered record."""
        delivered = self._delivered.items() if self.reading else ()
        return {partition: offset for partition, offset in delivered if offset >= self._resume_at.get(partition, 0)}

    def lag(self) -> dict[int, int]:
        """Records each assigned partition is behind the last stable offset, where that is known."""
        behind: dict[int, int] = {}
        if self._consumer is None:
            return behind
        for tp in self._consumer.assignment():
            newest = self._consumer.last_stable_offset(tp)
            if newest is not None and tp.partition in self._delivered:
                behind[tp.partition] = max(0, newest - self._delivered[tp.partition])
        return behind

    def request_stop(self) -> None:
        """End ``batches`` after the current one."""
        self._stop.set()

    async def close(self) -> None:
        """Leave the group and disconnect; bounded, also while Kafka is away."""
        consumer, listener, self._consumer, self._listener = self._consumer, self._listener, None, None
        if listener is not None:
            listener.detach()
        if consumer is not None:
            await disconnect(consumer.stop())

    async def _ready(self, owner: Owner) -> bool:
        """Whether the assigned partitions can be read. False, after a short wait, while Kafka is away."""
        try:
            if self._lost:
                await unless_set(self._stop, self._rejoin())
            if self._unowned and time.monotonic() >= self._try_again_at:
                self._positioned = -1
            if self._assignment != self._positioned and not self._revoking:
                await unless_set(self._stop, self._take_over(owner))
        except (KafkaError, OSError, BrokerUnavailable) as error:
            log.warning("partitions cannot be taken over yet", error=str(error))
            await unless_set(self._stop, asyncio.sleep(POLL_MS / 1000))
            return False
        return not self._stop.is_set()

    async def _rejoin(self) -> None:
        """Join the group as a new member. A fenced process may have been expelled from the group while it was stopped; the group,
        not its own memory, says which partitions it owns now."""
        await self._idle.wait()
        log.warning("a partition was lost; rejoining the group", lost=sorted(self._lost))
        await self.close()
        self._revoking = False
        await connect(self._make_consumer, self._kafka)
        for offsets in (self._delivered, self._finished, self._resume_at):
            for at in self._lost:
                offsets.pop(at, None)
        self._lost.clear()

    async def _take_over(self, owner: Owner) -> None:
        """Release lost partitions, take over new ones, set every position; abandoned when another rebalance starts."""
        await self._idle.wait()
        assignment = self._assignment
        assigned = {tp.partition: tp for tp in self._consumer.assignment()}
        kept = {at for at in assigned if at in self._finished and self._delivered.get(at) == self._finished[at]}
        revoked, new = self._owned - kept, set(assigned) - kept
        for offsets in (self._delivered, self._finished, self._resume_at):
            for at in revoked:
                offsets.pop(at, None)
        await owner.release(sorted(revoked))
        self._owned = kept | new
        taken = await owner.take_over(sorted(new)) if new else {}
        starts = await self._start_offsets(taken, assigned) if taken else {}
        if assignment != self._assignment:
            return  # rebalanced meanwhile
        for at, (rewind_to, resume_at) in starts.items():
            self._delivered[at], self._resume_at[at] = rewind_to, resume_at
        self._unowned, self._try_again_at = sorted(new - set(taken)), time.monotonic() + TRY_AGAIN_SECONDS
        self._owned -= set(self._unowned)
        owned = {at: tp for at, tp in assigned.items() if at in self._owned}
        for at, tp in owned.items():
            self._consumer.seek(tp, self._delivered[at])
        self._consumer.resume(*owned.values())
        self._positioned = assignment
        if self._unowned:
            log.warning("partitions cannot be owned", why=self.trouble)
        refill = sum(resume_at - rewind_to for rewind_to, resume_at in starts.values())
        log.info("partitions taken over", partitions=sorted(new), kept=sorted(kept), refill_records=refill)

    async def _start_offsets(
        self, committed: Mapping[int, Commit | None], assigned: Mapping[int, Any]
    ) -> dict[int, tuple[int, int]]:
        """By partition: the offset to read from, and the first offset to score."""
        partitions = [assigned[at] for at in committed]
        first, end = await self._consumer.beginning_offsets(partitions), await self._consumer.end_offsets(partitions)
        starts = {}
        for at, commit in committed.items():
            tp = assigned[at]
            if commit is None or commit.offset > end[tp]:  # never committed, or the topic was recreated
                begin = first[tp] if self._limits.start_from == "earliest" else end[tp]
                starts[at] = (begin, begin)
                continue
            resume_at = max(commit.offset, first[tp])
            oldest = resume_at if commit.oldest is None else commit.oldest
            starts[at] = (min(resume_at, max(oldest, resume_at - self._limits.max_rewind_records, first[tp])), resume_at)
        return starts

    def _on_assigned(self, partitions: Collection[Any]) -> None:
        self._assignment += 1
        self._revoking = False
        self._consumer.pause(*partitions)

    async def _on_revoked(self) -> None:
        self._revoking = True
        # Long enough for a batch to be scored and committed, short enough to stay in the group.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), self._kafka.session_timeout_seconds / 3)
        self._assignment += 1
