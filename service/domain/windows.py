"""Windows of samples that are due for scoring."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from service.domain.arrays import F32, I64, Mask
from service.domain.samples import Schema


@dataclass(frozen=True, slots=True, eq=False)
class WindowBatch:
    """Windows that are due, of any number of entities that share one schema.

    ``values``: float32 (n, window, dims); a missing entry holds the entity's last seen value, or NaN if none was seen
    since its window was last reset. ``mask``: bool, same shape, True where observed. ``end_rows``: int64 (n,), row of
    the newest sample of each window. ``partitions``, ``first_offsets``, ``last_offsets``: int64 (n,), the records that
    reproduce each window. ``labels``: the newest labels of each entity. Windows of one entity appear in row order.
    """

    schema: Schema
    values: F32
    mask: Mask
    entities: tuple[str, ...]
    end_rows: I64
    topic: str
    partitions: I64
    first_offsets: I64
    last_offsets: I64
    labels: tuple[Mapping[str, str], ...]

    def __len__(self) -> int:
        return len(self.entities)


def phase_of(entity: str) -> int:
    """Where an entity's grid of windows lies: one ends at every row r with ``(r + phase) % stride == 0``."""
    return zlib.crc32(entity.encode())
