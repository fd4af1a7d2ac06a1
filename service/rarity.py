"""How rare a window is for its entity today: its calibrated surprise, corrected by what is followed of the entity online.

What is *claimed*, "one in N", is interpolated between the surprises that one window in 10, 100 and 1,000 exceeds
(``claimed``; ``detectors/decision/claims.py``, decision 0021). How loud a window is follows from its level:

Two surprises of each entity are followed (``detectors/decision/alert_budget.py``): ``common``, which one of its windows in ten
exceeds, and ``level``, above which a window is anomalous. Calibration had put the level at ``c = level - shift``. The rarity is
-log10 of "one in N", piecewise linear in the surprise ``s`` (with ``t = min(1, c)`` and ``common`` at most ``level``):

    s <= common             t s / common                                    rises to 1 at ``common``: one window in ten
    common < s <= level     t + (c - t) (s - common) / (level - common)     rises to ``c``: as rare as the budget
    s > level               s - shift                                       goes on along the calibrated tail

Decision 0005 has the measurements.
"""

from __future__ import annotations

import numpy as np

from service.compiled import kernel
from service.domain import F64

# -log10 of the share of windows that exceed ``common``.
COMMON_RARITY = 1.0
# What one window in 10, 100 and 1,000 exceeds, where nothing has drifted since calibration.
AS_CALIBRATED = (1.0, 2.0, 3.0)


@kernel
def rarity(surprise: float, common: float, level: float, shift: float) -> float:
    """-log10 of how often this entity's windows are as surprising nowadays; grows with ``surprise``."""
    calibrated = level - shift
    if surprise > level:
        return surprise - shift
    low, tenth = min(common, level), min(COMMON_RARITY, calibrated)
    if surprise > low:
        return tenth + (surprise - low) * (calibrated - tenth) / (level - low)
    return tenth * surprise / low if low > 0.0 else 0.0


@kernel
def rarities(surprises: F64, common: F64, level: F64, shift: F64) -> F64:
    """``rarity`` of n windows, all columns (n,)."""
    out = np.empty(len(surprises))
    for i in range(len(surprises)):
        out[i] = rarity(surprises[i], common[i], level[i], shift[i])
    return out


@kernel
def claimed(surprise: float, tenth: float, hundredth: float, thousandth: float) -> float:
    """-log10 of how often this entity's windows are as surprising, where one in 10, 100 and 1,000 exceeds these surprises; grows
    with ``surprise``. Linear up to, between and, as calibrated, beyond the three."""
    if surprise > thousandth:
        return 3.0 + surprise - thousandth
    if surprise > hundredth:
        return 2.0 + (surprise - hundredth) / (thousandth - hundredth)
    if surprise > tenth:
        return 1.0 + (surprise - tenth) / (hundredth - tenth)
    return surprise / tenth if surprise > 0.0 else 0.0


@kernel
def claims(surprises: F64, exceeded: F64) -> F64:
    """``claimed`` of n windows (n,); ``exceeded``: (n, 3)."""
    out = np.empty(len(surprises))
    for i in range(len(surprises)):
        out[i] = claimed(surprises[i], exceeded[i, 0], exceeded[i, 1], exceeded[i, 2])
    return out
