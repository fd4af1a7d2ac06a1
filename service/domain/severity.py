"""How severe an anomaly is."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Severity(StrEnum):
    """How severe an anomaly is; ordered by ``rank``."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0, 1, 2 from ``info`` to ``critical``."""
        return ("info", "warning", "critical").index(self.value)


class SeverityBounds(NamedTuple):
    """The calibrated scores, in [0, 1], above which an anomaly is that severe."""

    warning: float = 0.7
    critical: float = 0.9

    def of(self, score: float) -> Severity:
        """The severity of a score."""
        if score > self.critical:
            return Severity.CRITICAL
        return Severity.WARNING if score > self.warning else Severity.INFO

    def below(self, severity: Severity) -> float:
        """The score that lies just below a severity; 0 for ``info``."""
        return (0.0, self.warning, self.critical)[severity.rank]
