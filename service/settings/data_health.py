"""When to alert about the data itself."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from service.settings.base import Positive, Seconds, Section, Share


class DataHealthSettings(Section):
    """When to alert about the data itself; a bound of None is not checked. The notifier checks every ``check_every_seconds`` and
    fires after ``fire_after`` bad checks in a row. What Kafka does not show, the scoring workers report as often."""

    renamed: ClassVar = {"max_quiet_seconds": "max_topic_idle_seconds", "max_silent_seconds": "max_entity_silence_seconds"}

    check_every_seconds: Seconds = 30.0
    fire_after: Positive = 3
    max_lag_records: Positive | None = 100_000
    max_rejected_share: Share | None = 0.05
    max_topic_idle_seconds: Seconds | None = None  # since anything arrived on the metrics topic
    max_entity_silence_seconds: Seconds | None = None  # since one entity sent its last row
    still_metrics: bool = True
    empty_metrics: bool = True
    max_late_share: Share | None = 0.05
    max_model_age_days: Annotated[float, Field(gt=0)] | None = 90.0

    @property
    def watched(self) -> frozenset[str]:
        """The checks that have a bound, by name."""
        bounds = {
            "lag": self.max_lag_records,
            "rejected": self.max_rejected_share,
            "quiet": self.max_topic_idle_seconds,
            "silent": self.max_entity_silence_seconds,
            "still": self.still_metrics or None,
            "empty": self.empty_metrics or None,
            "late": self.max_late_share,
            "model": self.max_model_age_days,
        }
        return frozenset(name for name, bound in bounds.items() if bound is not None)

    @property
    def reported(self) -> frozenset[str]:
        """Of ``watched`` those that need the reports of the scoring workers."""
        return self.watched & {"silent", "still", "empty", "late", "model"}
