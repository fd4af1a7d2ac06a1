"""Records from the metrics topic, and where to go on after a restart or a rebalance.

What aiokafka 0.14 does decides the shape (all of it was tried):

- ``getmany`` is never cancelled (it would leak its fetch counter and switch the max-poll detection off). It is called only when
  the owner can work on what it brings, so that a record waits in aiokafka's buffer, where more may join it, and not in a batch.
- No heartbeat runs while a rebalance listener works, and what it raises is swallowed. So the assigned-listener only pauses
  and notes; partitions are taken over by the main loop, in ``_take_over``.
- The revoked-listener waits, bounded, until the batches in hand are committed, so that a clean rebalance repeats nothing.
- Rebalances are eager: every partition is revoked and handed out again. One that comes straight back, with all that was
  handed on settled, keeps its windows and its producer: had another process worked on it meanwhile, the next transaction
  would be refused, and the partition taken over anew.
- Static membership is broken there (two members keep one partition), so the group is left on close.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Coroutine, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.errors import GroupAuthorizationFailedError, KafkaError, TopicAuthorizationFailedError

from service.domain import Record
from service.errors import BrokerUnavailable, ConfigError
from service.kafka_options import Commit, connect, disconnect, kafka_client_options
from service.observability.logging import get_logger
from service.settings import Settings
from service.sources.base import Owner, RecordBatch
from service.sources.topic_range import require_topic

log = get_logger("source")

POLL_MS = 200  # how long an idle poll waits; a record that arrives ends it at once
PIECE_RECORDS = 4000  # taken from aiokafka's buffer at a time, some 12 ms of work
FETCH_BYTES = 4 << 20  # a partition's share of one fetch, enough for a full batch; a larger message still comes, alone


class KafkaSource:
    """One member of the group ``<group_prefix>.scoring`` on the metrics topic; ``owner`` works on its partitions."""

    def __init__(self, settings: Settings, owner: Owner, max_records: int | None = None) -> None:
        """``max_records`` of one batch, where they must be fewer than the settings say."""
        self._kafka = settings.kafka
        self._limits = settings.stream
        self._most = min(settings.stream.max_batch_records, max_records or settings.stream.max_batch_records)
        self._topic = settings.kafka.topics.metrics
        self._owner = owner
        self.group = f"{settings.kafka.group_prefix}.scoring"
        self._consumer: Any = None
        self._listener: _Listener | None = None
        self._stop = asyncio.Event()
        self._turn = 0  # assignments so far
        self._taken = 0  # the assignment whose positions are set
        self._revoking = False
        self._claimed: set[int] = set()  # what the owner was asked to take over and not to give up
        self._lost: set[int] = set()
        self._handed: dict[int, int] = {}  # by partition, the offset behind the last record handed on
        self._settled: dict[int, int] = {}  # the same, once the owner was done with them
        self._resume_at: dict[int, int] = {}
        self._in_hand = 0  # batches the owner is not done with
        self._idle = asyncio.Event()  # there are none
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
        self._listener = _Listener(self)
        self._consumer.subscribe([self._topic], listener=self._listener)
        return self._consumer

    async def batches(self) -> AsyncIterator[RecordBatch]:
        """Batches until ``request_stop``; an empty one when nothing came for a moment, or Kafka is away.

        The owner says ``done`` for each, in whatever order; partitions come and go only when it has said so for all.
        """
        while not self._stop.is_set():
            if not await self._ready():
                self._hand_on()
                yield RecordBatch([], {})
                continue
            turn = self._turn
            fetched = await self._fetch()
            if self._lost or self._revoking or turn != self._turn or turn != self._taken:
                continue  # rebalanced meanwhile: _take_over sets every position anew, so nothing fetched is lost
            # aiokafka's records have every field of a Record; to make each anew would take a tenth of this thread's time.
            records: list[Record] = [message for messages in fetched.values() for message in messages]
            self._handed.update({tp.partition: messages[-1].offset + 1 for tp, messages in fetched.items() if messages})
            self._hand_on()
            yield RecordBatch(records, dict(self._resume_at))

    def _hand_on(self) -> None:
        self._in_hand += 1
        self._idle.clear()

    def batch_done(self) -> None:
        """The owner's word that one batch more is committed, or will never be."""
        self._in_hand -= 1
        if not self._in_hand:
            self._settled = dict(self._handed)
            self._idle.set()

    async def _fetch(self) -> dict[Any, list[Any]]:
        """What has arrived, by partition; nothing when nothing does for a moment."""
        fetched: dict[Any, list[Any]] = {}
        room = await self._drain(fetched, self._most)
        # What there was waited in aiokafka's buffer, which asks for no newer records meanwhile. A batch of the old alone would
        # cost as much as one of both, and the newer would wait for it.
        await self._drain(fetched, room, POLL_MS if not fetched else self._limits.max_delay_ms)
        return fetched

    async def _drain(self, into: dict[Any, list[Any]], room: int, wait_ms: int = 0) -> int:
        """Add what lies ready, after waiting so long for the first of it, and say how much room is left.

        aiokafka unpacks records on the event loop, which is let go after each piece.
        """
        while room:
            piece = await self._poll(wait_ms, min(room, PIECE_RECORDS))
            if not piece:
                break
            for partition, messages in piece.items():
                into.setdefault(partition, []).extend(messages)
                room -= len(messages)
            wait_ms = 0
            await asyncio.sleep(0)
        return room

    async def _poll(self, timeout_ms: int, most: int) -> dict[Any, list[Any]]:
        try:
            fetched: dict[Any, list[Any]] = await self._consumer.getmany(timeout_ms=timeout_ms, max_records=most)
        except (TopicAuthorizationFailedError, GroupAuthorizationFailedError) as error:
            raise ConfigError(
                f"Kafka does not let group {self.group} read {self._topic}.", hint="Grant the user READ on both."
            ) from error
        return fetched

    def mark_lost(self, partitions: Collection[int]) -> None:
        """The owner's word, before it is done with a batch, that it may not own these any more: they will be taken over anew."""
        self._lost |= set(partitions)

    @property
    def reading(self) -> bool:
        """True while the partitions assigned are being read; False while they are being taken over, or Kafka is away."""
        return self._taken == self._turn and self._turn > 0 and not self._lost

    def refilled(self) -> dict[int, int]:
        """By partition whose windows are filled again: the offset behind the last record handed on."""
        at = self._handed.items() if self.reading else ()
        return {partition: offset for partition, offset in at if offset >= self._resume_at.get(partition, 0)}

    def lag(self) -> dict[int, int]:
        """Records each assigned partition is behind, as far as Kafka told."""
        behind: dict[int, int] = {}
        if self._consumer is None:
            return behind
        for tp in self._consumer.assignment():
            newest = self._consumer.last_stable_offset(tp)
            if newest is not None and tp.partition in self._handed:
                behind[tp.partition] = max(0, newest - self._handed[tp.partition])
        return behind

    def request_stop(self) -> None:
        """End ``batches`` after the batch in hand."""
        self._stop.set()

    async def close(self) -> None:
        """Leave the group and disconnect; bounded, also while Kafka is away."""
        consumer, self._consumer, self._listener = self._consumer, None, None
        if consumer is not None:
            await disconnect(consumer.stop())

    async def _ready(self) -> bool:
        """Whether the partitions assigned now can be read. False, after a moment, while Kafka is away."""
        try:
            if self._lost:
                await self._until_stopped(self._rejoin())
            if self._turn != self._taken and not self._revoking:
                await self._until_stopped(self._take_over())
        except (KafkaError, OSError, BrokerUnavailable) as error:
            log.warning("partitions cannot be taken over yet", error=str(error))
            await self._until_stopped(asyncio.sleep(POLL_MS / 1000))
            return False
        return not self._stop.is_set()

    async def _until_stopped(self, work: Coroutine[Any, Any, None]) -> None:
        """Await ``work``, but no longer than until ``request_stop``."""
        task, stop = asyncio.ensure_future(work), asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait([task, stop], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            if not task.done():
                task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def _rejoin(self) -> None:
        """Join the group as a new member. Who was fenced may be a member that the group put out while it slept: it must not
        claim its partitions back, but hear from the group whose they are now."""
        await self._idle.wait()
        log.warning("joining the group anew", lost=sorted(self._lost))
        await self.close()
        self._revoking = False
        await connect(self._make_consumer, self._kafka)
        for known in (self._handed, self._settled, self._resume_at):
            for at in self._lost:
                known.pop(at, None)
        self._lost.clear()

    async def _take_over(self) -> None:
        """Give up what is lost, take over what is new, and set every position. Stopped by a further rebalance."""
        await self._idle.wait()
        turn = self._turn
        assigned = {tp.partition: tp for tp in self._consumer.assignment()}
        kept = {at for at in assigned if at in self._settled and self._handed.get(at) == self._settled[at]}
        gone, new = self._claimed - kept, set(assigned) - kept
        for known in (self._handed, self._settled, self._resume_at):
            for at in gone:
                known.pop(at, None)
        await self._owner.release(sorted(gone))
        self._claimed = kept | new
        starts = await self._starts(await self._owner.take_over(sorted(new)), assigned) if new else {}
        if turn != self._turn:
            return  # revoked again meanwhile
        for at, (rewind_to, resume_at) in starts.items():
            self._handed[at], self._resume_at[at] = rewind_to, resume_at
        for at, tp in assigned.items():
            self._consumer.seek(tp, self._handed[at])
        self._consumer.resume(*assigned.values())
        self._taken = turn
        refill = sum(resume_at - rewind_to for rewind_to, resume_at in starts.values())
        log.info("partitions taken over", partitions=sorted(new), kept=sorted(kept), refill_records=refill)

    async def _starts(self, committed: Mapping[int, Commit | None], assigned: Mapping[int, Any]) -> dict[int, tuple[int, int]]:
        """By partition: where to begin reading, and the first offset to score."""
        partitions = [assigned[at] for at in committed]
        first = await self._consumer.beginning_offsets(partitions)
        end = await self._consumer.end_offsets(partitions)
        starts = {}
        for at, commit in committed.items():
            tp = assigned[at]
            if commit is None or commit.offset > end[tp]:  # never committed, or the topic was made anew
                begin = first[tp] if self._limits.start_from == "earliest" else end[tp]
                starts[at] = (begin, begin)
                continue
            resume_at = max(commit.offset, first[tp])
            oldest = resume_at if commit.oldest is None else commit.oldest
            starts[at] = (min(resume_at, max(oldest, resume_at - self._limits.max_rewind_records, first[tp])), resume_at)
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
    """Only waits, pauses and notes; and nothing any more once its consumer is being left."""

    def __init__(self, source: KafkaSource) -> None:
        self._source = source

    async def on_partitions_revoked(self, revoked: Collection[Any]) -> None:
        if revoked and self._source._listener is self:
            await self._source._revoked()

    async def on_partitions_assigned(self, assigned: Collection[Any]) -> None:
        if self._source._listener is self:
            self._source._assigned(assigned)
