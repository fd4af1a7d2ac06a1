"""The life of an alert."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from service.domain import SeverityBounds
from service.settings.base import Positive, Seconds, Section, Share


class EpisodeSettings(Section):
    """The life of an alert: when it opens, fires, changes and resolves. Times are event time.

    An anomalous window of at least ``min_severity`` opens an alert. A window is evidence when its newest stride rows are unusual
    by themselves (``fresh_p`` at or below ``fresh_p_below``). The alert fires when ``fire_after`` of the last ``fire_within``
    windows are evidence.
    """

    fire_after: Positive = 2
    fire_within: Annotated[int, Field(gt=0, le=63)] = 3
    # Scores above which an anomaly is that severe.
    warning_above: Annotated[float, Field(gt=0, lt=1)] = SeverityBounds().warning
    critical_above: Annotated[float, Field(gt=0, lt=1)] = SeverityBounds().critical
    min_severity: Literal["info", "warning", "critical"] = "info"
    fresh_p_below: Annotated[float, Field(gt=0, le=1)] = 0.02
    severity_hysteresis: Share = 0.05  # how far the score must stay below a severity's bound before it is lowered
    resolve_after_windows: Positive = 3
    max_severity_changes: Positive = 6  # after so many an alert only rises to a new peak, fires or resolves
    max_gap_seconds: Seconds = 600.0  # no scored window for longer (and for at least 6 strides) closes the alert
    max_episode_seconds: Seconds = 86_400.0

    @model_validator(mode="after")
    def _k_of_n(self) -> Self:
        if self.fire_after > self.fire_within:
            raise ValueError("alerts.fire_after must not exceed alerts.fire_within")
        return self

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.warning_above > self.critical_above:
            raise ValueError("alerts.warning_above must not exceed alerts.critical_above")
        return self

    @property
    def bounds(self) -> SeverityBounds:
        """The scores above which an anomaly is that severe."""
        return SeverityBounds(self.warning_above, self.critical_above)
