"""How verdicts are reached."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from service.settings.base import Positive, Seconds, Section


class BudgetSettings(Section):
    """The false alarms that operators accept, per entity and day."""

    false_alarms_per_entity_day: Annotated[float, Field(gt=0)] = 1.0


class DetectionSettings(Section):
    """How verdicts are reached from the bundle's detectors."""

    # "budget" follows drift; the others are static rules of the literature and do not.
    rule: Literal["budget", "mean+2sigma", "mean+3sigma", "quantile", "majority"] = "budget"
    budget: BudgetSettings = BudgetSettings()
    detectors: dict[str, float] | None = None  # only these of the bundle's members, with weights; None: as trained
    timeout_seconds: Seconds = 30.0
    threads: Positive = 2
