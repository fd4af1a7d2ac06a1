"""What of the pooled whitening does not fit an entity that training knew well: its own centre and its own few wide axes.

Entities that share a bundle share one covariance, and one whose metrics go together differently has directions in which it
moves widely every day and the others never do. Pooled whitening calls that strange for ever. So every entity with enough
training windows gets, in whitened space, its own mean and the ``AXES`` axes along which its windows spread most; along
those its own standard deviations are used, and one shared by all its other axes. A full covariance each was measured to
be little better on SMD, and costs 25 times the memory and, where every entity brings one window, ten times the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.compiled import kernel
from service.detectors.features.whitening import widest
from service.domain import F32, F64, I64

AXES = 16
# With fewer windows than this an entity's own axes would be chance.
LEAST_WINDOWS = 200


class EntityWhitening:
    """Of e entities: ``centres`` float32 (e, k), ``axes`` float32 (e, k, AXES), ``gains`` float32 (e, AXES) and ``rests`` float32
    (e,): one over the standard deviations along and off the axes. ``owners``: int64 (e,), the numbers of the entities."""

    def __init__(self, ridge: float) -> None:
        self.ridge = ridge
        self._keep(np.zeros(0, np.int64), *(np.zeros(shape, np.float32) for shape in ((0, 0), (0, 0, AXES), (0, AXES), (0,))))

    def _keep(self, owners: I64, centres: F32, axes: F32, gains: F32, rests: F32) -> None:
        self.owners, self.centres, self.axes, self.gains, self.rests = owners, centres, axes, gains, rests

    def fit(self, whitened: F32, owner: I64) -> None:
        """Learn from whitened windows (n, k) and the number of the entity each is of; 0 is no entity in particular."""
        found, counts = np.unique(owner, return_counts=True)
        owners = found[(found > 0) & (counts >= max(LEAST_WINDOWS, 2 * AXES))]
        width = whitened.shape[1]
        if not len(owners) or width <= AXES:
            self.__init__(self.ridge)  # type: ignore[misc]  # back to nobody
            return
        learned = [self._learn(whitened[owner == one].astype(np.float64)) for one in owners]
        self._keep(owners, *(np.ascontiguousarray(np.stack(part), np.float32) for part in zip(*learned, strict=True)))

    def _learn(self, whitened: F64) -> tuple[F64, F64, F64, F64]:
        centre = whitened.mean(axis=0)
        whitened -= centre
        width = whitened.shape[1]
        covariance = whitened.T @ whitened / len(whitened)
        level = np.trace(covariance) / width
        values, axes = widest(covariance, AXES)
        off = max(level * width - values.sum(), 0.0) / (width - AXES)
        ridge = self.ridge * level + 1e-12
        return centre, axes, 1.0 / np.sqrt(np.maximum(values, 0.0) + ridge), np.asarray(1.0 / np.sqrt(off + ridge))

    def slots(self, owner: I64) -> I64:
        """Int64 (n,): where each window's entity stands among those known here, -1 where it does not."""
        if not len(self.owners):
            return np.full(len(owner), -1, np.int64)
        at = np.minimum(np.searchsorted(self.owners, owner), len(self.owners) - 1)
        return np.where(self.owners[at] == owner, at, -1)

    def squared(self, whitened: F32, slots: I64, into: F32) -> None:
        """Put the squared distance of the windows whose entity is known here in place of what stands in ``into`` (n,)."""
        if (slots >= 0).any():
            _squared(whitened, slots, self.centres, self.axes, self.gains, self.rests, into)

    def deviations(self, whitened: F32, slot: int) -> F32:
        """float32 (n, k): whitened windows of one entity as they deviate from its own normal; their squares sum to ``squared``."""
        off = whitened - self.centres[slot]
        along = off @ self.axes[slot]
        own: F32 = self.rests[slot] * off + (along * (self.gains[slot] - self.rests[slot])) @ self.axes[slot].T
        return own

    def state(self) -> dict[str, NDArray[Any]]:
        """Plain arrays; none where nobody has a spread of their own."""
        if not len(self.owners):
            return {}
        return {name: getattr(self, name) for name in ("owners", "centres", "axes", "gains", "rests")}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """The inverse of ``state``."""
        if arrays:
            self._keep(*(np.ascontiguousarray(arrays[name]) for name in ("owners", "centres", "axes", "gains", "rests")))


@kernel
def _squared(whitened: F32, slots: I64, centres: F32, axes: F32, gains: F32, rests: F32, into: F32) -> None:
    width, count = axes.shape[1], axes.shape[2]
    along = np.empty(count, np.float32)
    for i in range(whitened.shape[0]):
        s = slots[i]
        if s < 0:
            continue
        along[:] = np.float32(0)
        whole = 0.0
        for c in range(width):
            off = whitened[i, c] - centres[s, c]
            whole += off * off
            for a in range(count):
                along[a] += off * axes[s, c, a]
        rest = rests[s] * rests[s]
        total = whole * rest
        for a in range(count):
            total += along[a] * along[a] * (gains[s, a] * gains[s, a] - rest)
        into[i] = max(total, 0.0)
