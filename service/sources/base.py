"""What the scoring part asks of anything that brings records."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Protocol

import msgspec

from service.domain import Record, Rejected, Sample
from service.kafka_options import Commit


class RecordBatch(msgspec.Struct, frozen=True):
    """Records of any partitions, in offset order within each.

    ``resume_at``: per partition, the first offset that was not yet committed when the partition was taken over. Records
    before it only refill windows; they are never scored again.
    """

    records: Sequence[Record]
    resume_at: Mapping[int, int]


class Owner(Protocol):
    """Whoever works on the source's partitions, told by its main loop when they come and go."""

    async def take_over(self, partitions: Collection[int]) -> Mapping[int, Commit | None]:
        """Become the only one who works on them and remember what was known of them; what is committed, None if never.

        Raises ``BrokerUnavailable`` to be asked again, and ``Stop`` to end the process.
        """
        ...

    async def release(self, partitions: Collection[int]) -> None:
        """Forget them: they went to another member, or will be taken over anew."""
        ...


class Source(Protocol):
    """Brings records, and forgets partitions that another process took over."""

    async def start(self) -> None:
        """Connect. Raises ``BrokerUnavailable`` when nothing answers, ``ConfigError`` when credentials are refused."""
        ...

    def batches(self) -> AsyncIterator[RecordBatch]:
        """Batches until ``stop`` is called; empty ones are yielded when idle so that time-driven work goes on."""
        ...

    def batch_done(self) -> None:
        """One batch more is committed, or will never be. To be said for each."""
        ...

    def request_stop(self) -> None:
        """End ``batches`` after the batch in hand."""
        ...

    async def close(self) -> None:
        """Leave the group and disconnect."""
        ...


class Codec(Protocol):
    """Turns bytes into samples. One file in ``codecs/``, one line in ``app.CODECS``."""

    name: str

    def decode(self, records: Sequence[Record]) -> tuple[Sequence[Sample], list[Rejected]]:
        """Samples in the records' order (as ``Samples`` where one schema serves all of them), and the records that cannot
        become one, with their reasons. Never raises."""
        ...
