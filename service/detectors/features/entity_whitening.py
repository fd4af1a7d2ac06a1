"""Per-entity correction of the shared whitening: own mean and 16 widest axes, for entities with 200 training windows or more.

Entities that share a bundle share one covariance. An entity whose metrics are correlated differently moves widely, every day, in
directions in which the others hardly move, and the shared whitening would score that as strange for ever. So each entity with
enough training windows gets, in whitened space, its own mean and the ``AXES`` axes along which its windows spread most. Along
those its own standard deviations apply, and one standard deviation that all its other axes share. A full covariance per entity
was measured to be little better on SMD; it costs 25 times the memory and, where every entity has one window in a batch, ten times
the time.
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
# The axes of an entity with fewer training windows would be chance.
LEAST_WINDOWS = 200


class EntityWhitening:
    """The corrections of e entities, in a whitened space of k axes.

    ``owners``: int64 (e,), the entities' numbers (``Features.owner``), ascending; ``centres``: float32 (e, k); ``axes``: float32
    (e, k, AXES); ``gains``: float32 (e, AXES) and ``rests``: float32 (e,), one over the standard deviations along and off the axes.
    """

    def __init__(self, ridge: float) -> None:
        """``ridge``: added to every variance, as a share of the entity's mean variance."""
        self.ridge = ridge
        self._keep_none()

    def _keep_none(self) -> None:
        self._keep(np.zeros(0, np.int64), *(np.zeros(shape, np.float32) for shape in ((0, 0), (0, 0, AXES), (0, AXES), (0,))))

    def _keep(self, owners: I64, centres: F32, axes: F32, gains: F32, rests: F32) -> None:
        self.owners, self.centres, self.axes, self.gains, self.rests = owners, centres, axes, gains, rests

    def fit(self, whitened: F32, owner: I64) -> None:
        """Learn from whitened windows (n, k) and the number of each one's entity (n,); 0: it has no scale of its own."""
        found, counts = np.unique(owner, return_counts=True)
        owners = found[(found > 0) & (counts >= max(LEAST_WINDOWS, 2 * AXES))]
        width = whitened.shape[1]
        if not len(owners) or width <= AXES:
            self._keep_none()
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
        """Int64 (n,): the index of each window's entity in ``owners``, -1 where it has no correction."""
        if not len(self.owners):
            return np.full(len(owner), -1, np.int64)
        at = np.minimum(np.searchsorted(self.owners, owner), len(self.owners) - 1)
        return np.where(self.owners[at] == owner, at, -1)

    def squared(self, whitened: F32, slots: I64, into: F32) -> None:
        """Overwrite ``into`` (n,) with the squared distance of those windows whose entity has a correction."""
        if (slots >= 0).any():
            _squared(whitened, slots, self.centres, self.axes, self.gains, self.rests, into)

    def deviations(self, whitened: F32, slot: int) -> F32:
        """float32 (n, k): how whitened windows of one entity deviate from its own normal; their squares sum to ``squared``."""
        off = whitened - self.centres[slot]
        along = off @ self.axes[slot]
        deviations: F32 = self.rests[slot] * off + (along * (self.gains[slot] - self.rests[slot])) @ self.axes[slot].T
        return deviations

    def state(self) -> dict[str, NDArray[Any]]:
        """Plain arrays; none where no entity has a correction."""
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
