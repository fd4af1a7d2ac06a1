"""Large arrays that are used again.

The windows of a batch are some tens of megabytes. Asked of the operating system anew for each batch and given back after it, they
cost more time in page faults than all detectors together (docs/performance.md). So their memory is lent, and comes home by
itself when the last array that looks at it is gone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


class ArrayPool:
    """Blocks of ``size`` bytes; at most ``most_kept`` of those that came home are kept. Safe to use from several threads."""

    def __init__(self, size: int, most_kept: int) -> None:
        self._size = size
        self._most_kept = most_kept
        self._home: list[Bytes] = []

    def lend(self) -> Bytes:
        """uint8 (size,), not cleared: one that came home, or a new one, which takes up memory only where it is written."""
        try:
            block = self._home.pop()
        except IndexError:
            block = np.empty(self._size, np.uint8)
        return np.asarray(_Lent(block, self))

    def take_back(self, block: Bytes) -> None:
        """Keep it for the next borrower, if there is room."""
        if len(self._home) < self._most_kept:
            self._home.append(block)


class _Lent:
    """What every array that looks at a block holds on to, as its base; its end is the end of the loan."""

    __slots__ = ("__array_interface__", "_block", "_owner")

    def __init__(self, block: Bytes, owner: ArrayPool) -> None:
        self.__array_interface__: dict[str, Any] = block.__array_interface__
        self._block = block
        self._owner = owner

    def __del__(self) -> None:
        self._owner.take_back(self._block)
