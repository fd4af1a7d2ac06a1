"""What detectors see of a window. Training and serving go through this file, to the letter."""

from __future__ import annotations

from dataclasses import dataclass

from service.domain import F32, Mask


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Windows centred and scaled per metric: values float32 (n, window, dims), clipped, missing = 0; mask as in WindowBatch."""

    values: F32
    mask: Mask
