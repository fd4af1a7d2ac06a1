"""How a bundle is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from service.settings.base import Positive, Section, under_new_names

# Old names of the options in ``training.detectors``, accepted for one release.
RENAMED_OPTIONS = {"beside": "overrides_by_decades"}


class TrainingSettings(Section):
    """How a bundle is trained; stored in the bundle."""

    # By name: a weight, or options, among them ``weight`` or ``overrides_by_decades``.
    detectors: dict[str, float | dict[str, Any]] = {
        "mahalanobis": 4.0,
        "deep": 1.0,
        "statistical": 1.0,
        "autoregression": 1.0,
        "departure": {"overrides_by_decades": 1.0},
    }
    combination: Literal["tail", "zscore", "votes"] = "tail"  # how the detectors' scores become one
    window: Positive = 100
    stride: Positive = 10
    # The share of normal strides with an early window: one that is due at once because metrics jump. 0: none.
    early_share: Annotated[float, Field(ge=0, lt=0.5)] = 0.05
    seed: int = 0
    device: str = "auto"
    calibration_share: Annotated[float, Field(gt=0, lt=0.9)] = 0.2
    refit: bool = True  # after calibrating, train once more on all rows, including those of the calibration
    max_windows: Positive = 8_000
    max_calibration_windows: Annotated[int, Field(ge=100)] = (
        200_000  # of more, an even subsample: overlapping windows are redundant
    )
    epochs: Positive = 50
    patience: Positive = 5
    batch_size: Positive = 256
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3

    @field_validator("detectors", mode="before")
    @classmethod
    def _accept_old_options(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        return {name: under_new_names(one, RENAMED_OPTIONS) if isinstance(one, Mapping) else one for name, one in given.items()}
