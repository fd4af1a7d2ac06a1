"""What the scoring part requires of a source and of a codec."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Protocol

import msgspec

from service.domain import Record, Rejected, Sample
from service.kafka_options import Commit


class RecordBatch(msgspec.Struct, frozen=True):
    """Records of any partitions, in offset order within each.

    ``resume_at``: per partition, the first offset that was not committed when the partition was taken over. Records before it
    only refill windows; they are not scored again.
    """

    records: Sequence[Record]
    resume_at: Mapping[int, int]


class Owner(Protocol):
    """What processes the source's partitions. The source's main loop calls it when they are assigned and revoked."""

    async def take_over(self, partitions: Collection[int]) -> Mapping[int, Commit | None]:
        """Fence the former owner and load the state of these partitions; what is committed for each, None if nothing ever was.

        Raises ``BrokerUnavailable`` to be called again, and ``Stop`` to end the process.
        """
        ...

    async def release(self, partitions: Collection[int]) -> None:
        """Drop all state of these partitions: another member owns them now, or they will be taken over again."""
        ...


class Source(Protocol):
    """Yields batches of records, and drives its owner through assignments."""

    async def start(self) -> None:
        """Connect. Raises ``BrokerUnavailable`` when nothing answers, ``ConfigError`` when credentials are refused."""
        ...

    def batches(self, owner: Owner) -> AsyncIterator[RecordBatch]:
        """Batches until ``request_stop``; empty ones when idle, so that time-driven work goes on. ``owner`` is called between two
        batches, never beside one that is not done."""
        ...

    def batch_done(self) -> None:
        """One batch is finished: committed, or given up. To be called once for each."""
        ...

    def mark_lost(self, partitions: Collection[int]) -> None:
        """The owner may have lost these partitions; they are taken over again. To be called before the batch is done."""
        ...

    @property
    def reading(self) -> bool:
        """True while the assigned partitions are read; False while they are taken over, or the server is away."""
        ...

    @property
    def trouble(self) -> str | None:
        """What keeps records from being read although the server answers, as a sentence; None: nothing does."""
        ...

    def lag(self) -> Mapping[int, int]:
        """Records each assigned partition is behind, where that is known."""
        ...

    def request_stop(self) -> None:
        """End ``batches`` after the current one."""
        ...

    async def close(self) -> None:
        """Leave the group and disconnect."""
        ...


class Codec(Protocol):
    """Turns bytes into samples. One file in ``codecs/``, one line in ``app.CODECS``."""

    name: str

    def decode(self, records: Sequence[Record]) -> tuple[Sequence[Sample], list[Rejected]]:
        """Samples in the records' order (``Samples`` where all have one schema), and the records that are no valid sample, with
        the reasons. Never raises."""
        ...
