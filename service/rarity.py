"""How rare a window is claimed to be for its entity, "one in N", by the surprises that one of its windows in 10, 100 and 1,000
exceeds nowadays (``detectors/decision/claims.py``): linear up to and between them, and beyond as calibrated.

    s <= tenth                    s / tenth                                                  rises to 1: one window in ten
    tenth < s <= hundredth        1 + (s - tenth) / (hundredth - tenth)                      rises to 2
    hundredth < s <= thousandth   2 + (s - hundredth) / (thousandth - hundredth)             rises to 3
    s > thousandth                3 + s - thousandth                                         goes on along the calibrated tail

Decision 0021 has the measurements.
"""

from __future__ import annotations

import numpy as np

from service.compiled import kernel
from service.domain import F64


@kernel
def rarity(surprise: float, tenth: float, hundredth: float, thousandth: float) -> float:
    """log10 of the N in "one in N"; grows with ``surprise``."""
    if surprise > thousandth:
        return 3.0 + surprise - thousandth
    if surprise > hundredth:
        return 2.0 + (surprise - hundredth) / (thousandth - hundredth)
    if surprise > tenth:
        return 1.0 + (surprise - tenth) / (hundredth - tenth)
    return surprise / tenth if surprise > 0.0 else 0.0


@kernel
def rarities(surprises: F64, exceeded: F64) -> F64:
    """``rarity`` of n windows (n,); ``exceeded``: (n, 3)."""
    out = np.empty(len(surprises))
    for i in range(len(surprises)):
        out[i] = rarity(surprises[i], exceeded[i, 0], exceeded[i, 1], exceeded[i, 2])
    return out
