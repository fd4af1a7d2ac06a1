"""Tidewatch: streaming anomaly detection for multivariate metrics, from Kafka to the person woken up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from service.library import RealTimeAnomalyDetector

__all__ = ["RealTimeAnomalyDetector"]


def __getattr__(name: str) -> Any:
    """``service.RealTimeAnomalyDetector``, loaded when it is asked for: the command line must not pay for it."""
    if name == "RealTimeAnomalyDetector":
        from service.library import RealTimeAnomalyDetector

        return RealTimeAnomalyDetector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
