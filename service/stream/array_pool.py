"""A pool of large arrays.

The windows of a batch take some tens of megabytes. Allocated for each batch and freed after it, they cost more time in page faults
than all detectors together (docs/performance.md). So their memory is pooled: a block returns to the pool by itself when the last
array that refers to it is gone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


class ArrayPool:
    """Blocks of ``size`` bytes; at most ``max_free`` returned ones are kept. Safe to use from several threads."""

    def __init__(self, size: int, max_free: int) -> None:
        self._size = size
        self._max_free = max_free
        self._free: list[Bytes] = []

    def borrow(self) -> Bytes:
        """uint8 (size,), not cleared: a returned block, or a new one, which takes up memory only where it is written."""
        try:
            block = self._free.pop()
        except IndexError:
            block = np.empty(self._size, np.uint8)
        return np.asarray(_Loan(block, self))

    def return_block(self, block: Bytes) -> None:
        """Keep the block for the next borrower, if there is room."""
        if len(self._free) < self._max_free:
            self._free.append(block)


class _Loan:
    """The base of every array that refers to a block; when it is deleted, the block returns to its pool."""

    __slots__ = ("__array_interface__", "_block", "_owner")

    def __init__(self, block: Bytes, owner: ArrayPool) -> None:
        self.__array_interface__: dict[str, Any] = block.__array_interface__
        self._block = block
        self._owner = owner

    def __del__(self) -> None:
        self._owner.return_block(self._block)
