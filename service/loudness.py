"""How loud an anomaly is: its score in [0, 1], by where its surprise lies among the levels followed for its entity.

Three levels of surprise are followed for each entity (``detectors/decision/alert_budget.py``): above ``level`` a window is
anomalous, above ``warning`` and ``critical`` it is that severe; each has a budget of false alerts of its own. The score is
piecewise linear in the surprise between them, so that a severity means the same on every host and with every model:

    0 ... level              0 ... 0.5
    level ... warning        0.5 ... 0.7
    warning ... critical     0.7 ... 0.9
    critical ...             0.9 ... 1, reached only in the limit: a stronger fault always scores higher

What is *claimed* of a window ("one in N") is another thing: ``service/rarity.py``. Decision 0020 has the measurements.
"""

from __future__ import annotations

import math

import numpy as np

from service.compiled import kernel
from service.domain import F64

LEVEL, WARNING, CRITICAL = 0.5, 0.7, 0.9  # the scores at the three levels
# Of an alert that was stored before severities had levels of their own: it goes on with what they were then.
ONCE_WARNING, ONCE_CRITICAL = 4.2, 5.4
DECADES = 3.0  # beyond ``critical``: what brings the score 63 % of the way from 0.9 to 1


@kernel
def loudness(surprise: float, level: float, warning: float, critical: float) -> float:
    """The score of one window; ``level`` > 0, ``warning`` and ``critical`` in rising order above it."""
    if surprise <= level:
        return max(LEVEL * surprise / level, 0.0)
    if critical <= level:
        warning, critical = max(ONCE_WARNING, level + 0.1), max(ONCE_CRITICAL, level + 0.2)
    if surprise <= warning:
        return LEVEL + (WARNING - LEVEL) * (surprise - level) / (warning - level)
    if surprise <= critical:
        return WARNING + (CRITICAL - WARNING) * (surprise - warning) / (critical - warning)
    return CRITICAL + (1.0 - CRITICAL) * (1.0 - math.exp((critical - surprise) / DECADES))


@kernel
def loudnesses(surprises: F64, level: F64, warning: F64, critical: F64) -> F64:
    """``loudness`` of n windows, all columns (n,)."""
    out = np.empty(len(surprises))
    for i in range(len(surprises)):
        out[i] = loudness(surprises[i], level[i], warning[i], critical[i])
    return out
