"""How verdicts are reached."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from service.settings.base import Positive, Seconds, Section


class BudgetSettings(Section):
    """The false pages that people accept: a day, of all entities that one model serves together. With
    ``false_alarms_per_entity_day`` the budget holds for each entity instead, however many there are."""

    false_pages_per_day: Annotated[float, Field(gt=0)] = 1.0
    false_alarms_per_entity_day: Annotated[float, Field(gt=0)] | None = None
    # How loud an alert is follows budgets of its own: of one entity, however many there are.
    false_warnings_per_entity_week: Annotated[float, Field(gt=0)] = 1.0
    false_criticals_per_entity_month: Annotated[float, Field(gt=0)] = 1.0

    def per_entity_day(self, entities: int) -> float:
        """Accepted alarms of one entity a day, where the model serves so many."""
        if self.false_alarms_per_entity_day is not None:
            return self.false_alarms_per_entity_day
        return self.false_pages_per_day / max(entities, 1)

    @property
    def severe_per_entity_day(self) -> tuple[float, float]:
        """Accepted false warnings and false criticals of one entity a day."""
        return self.false_warnings_per_entity_week / 7, self.false_criticals_per_entity_month / 30


class DetectionSettings(Section):
    """How verdicts are reached from the bundle's detectors."""

    # "budget" follows drift; the others are static rules of the literature and do not.
    rule: Literal["budget", "mean+2sigma", "mean+3sigma", "quantile", "majority"] = "budget"
    budget: BudgetSettings = BudgetSettings()
    detectors: dict[str, float] | None = None  # only these of the bundle's members, with weights; None: as trained
    timeout_seconds: Seconds = 30.0
    threads: Positive = 2
