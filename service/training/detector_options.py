"""``training.detectors``: what belongs to the ensemble (a weight, or how far a detector overrides) and what to the detector
itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from service.errors import ConfigError
from service.settings.base import under_new_names
from service.settings.training import RENAMED_OPTIONS


@dataclass(frozen=True, slots=True)
class DetectorOptions:
    """The options of one detector: ``own`` are those of its class.

    ``weight``: its part in the combined score. ``overrides_by_decades``: None, or then it has no weight, but overrides the combined
    score where its evidence is that many decades stronger (``Ensemble``).
    """

    weight: float = 1.0
    overrides_by_decades: float | None = None
    own: Mapping[str, Any] = field(default_factory=dict)


def detector_options(name: str, given: float | Mapping[str, Any]) -> DetectorOptions:
    """The options given for the detector ``name``: a weight, or a mapping.

    Raises ``ConfigError`` where both a weight and ``overrides_by_decades`` are given, or one of them is not a number that makes
    sense.
    """
    if not isinstance(given, Mapping):
        return DetectorOptions(float(given))
    try:
        own = under_new_names(given, RENAMED_OPTIONS)
    except ValueError as error:
        raise ConfigError(f"The detector {name!r} has an option twice.", hint=f"{error}.") from error
    if "overrides_by_decades" not in own:
        return DetectorOptions(float(own.pop("weight", 1.0)), own=own)
    decades = own.pop("overrides_by_decades")
    if "weight" in own or not isinstance(decades, int | float) or decades < 0:
        raise ConfigError(
            f"The detector {name!r} has overrides_by_decades {decades!r} and weight {own.get('weight')!r}.",
            hint="Give either a weight, or overrides_by_decades: how many decades stronger its evidence must be (0 or more).",
        )
    return DetectorOptions(0.0, float(decades), own)


def overrides_by_decades(options: Mapping[str, DetectorOptions]) -> dict[str, float]:
    """Those detectors that override the combined score, by how many decades."""
    return {name: one.overrides_by_decades for name, one in options.items() if one.overrides_by_decades is not None}
