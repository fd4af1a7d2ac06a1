"""Which entities sent lately, and what time it is by most of them.

While old records are read, the present says nothing about their time, and one producer whose clock is ahead must not make all
others look silent. So the time of a partition is the one that half of the entities that sent lately have reached.
"""

from __future__ import annotations

import numpy as np

from service.domain import I64
from service.stream.window_buffers import EMPTY, NEWEST, PARTITION

LATELY = 64  # records; or two of each entity, if that is more


class Recency:
    """Counts the records of each partition; ``lately`` is by this count, because times may be wrong."""

    def __init__(self) -> None:
        self._count: dict[int, int] = {}  # of records, by partition
        self._heard: I64 = np.zeros(0, np.int64)  # by slot: the count at its newest record

    def note(self, slots: I64, partitions: I64) -> None:
        """The slots that sent, in arrival order; a negative one is an entity without a slot: it counts, but has no voice."""
        if len(slots) and (most := int(slots.max()) + 1) > len(self._heard):
            self._heard = np.concatenate([self._heard, np.zeros(max(most, 2 * len(self._heard)) - len(self._heard), np.int64)])
        for partition in np.unique(partitions).tolist():
            mine = slots[partitions == partition]
            count = self._count.get(partition, 0)
            with_slot = np.flatnonzero(mine >= 0)
            self._heard[mine[with_slot]] = count + 1 + with_slot
            self._count[partition] = count + len(mine)

    def drop(self, partition: int) -> None:
        """Count anew."""
        self._count.pop(partition, None)

    def agreed_row(self, heads: I64, partition: int, otherwise: int) -> int:
        """The newest row that at least half of the entities have reached that sent lately; ``otherwise`` when none did."""
        here = np.flatnonzero((heads[:, PARTITION] == partition) & (heads[:, NEWEST] > EMPTY))
        lately = self._heard[here] > self._count.get(partition, 0) - max(LATELY, 2 * len(here))
        rows = np.sort(heads[here[lately], NEWEST])
        return int(rows[(len(rows) - 1) // 2]) if len(rows) else otherwise
