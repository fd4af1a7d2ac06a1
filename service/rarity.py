"""How rare a window is for its entity today: the calibrated surprise, held against what is followed of it online.

Two levels of each entity are followed (``detectors/budget.py``): the surprise that one window in ten exceeds, ``common``, and
the one at which it is called anomalous, ``level``, which calibration had put at ``level - shift``. What is exceeded by one in
ten has a rarity of 1, what is exceeded as often as the budget allows the level's calibrated surprise, and between them (and
below) it goes in straight lines. Beyond the level the calibrated tail goes on from there. Decision 0005 has the measurements.
"""

from __future__ import annotations

import numpy as np

from service.compiled import kernel
from service.domain import F64

# -log10 of the share of windows that exceed ``common``.
COMMON_RARITY = 1.0


@kernel
def rarity(surprise: float, common: float, level: float, shift: float) -> float:
    """-log10 of how often this entity's windows are as surprising nowadays; grows with ``surprise``."""
    calm = level - shift
    if surprise > level:
        return surprise - shift
    low, tenth = min(common, level), min(COMMON_RARITY, calm)
    if surprise > low:
        return tenth + (surprise - low) * (calm - tenth) / (level - low)
    return tenth * surprise / low if low > 0.0 else 0.0


@kernel
def rarities(surprises: F64, common: F64, level: F64, shift: F64) -> F64:
    """``rarity`` of n windows, all columns (n,)."""
    out = np.empty(len(surprises))
    for i in range(len(surprises)):
        out[i] = rarity(surprises[i], common[i], level[i], shift[i])
    return out
