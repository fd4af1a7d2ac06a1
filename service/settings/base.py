"""The base of every section of the settings, and old names of settings."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Seconds = Annotated[float, Field(gt=0)]


class RenamedSettingWarning(FutureWarning):
    """A setting was given under its old name. Python shows a ``FutureWarning`` to users, not only to developers."""


def under_new_names(given: Mapping[str, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    """``given`` with every old name replaced by its new one (``renamed``: old to new), and a ``RenamedSettingWarning`` for each.

    Raises ``ValueError`` where the old and the new name of one setting are both given.
    """
    result = dict(given)
    for old, new in renamed.items():
        if old not in result:
            continue
        if new in result:
            raise ValueError(f"{old} is the old name of {new}, and both are given: remove {old}")
        warnings.warn(
            f"The setting {old} is now called {new}. Rename it: the next release refuses the old name.",
            RenamedSettingWarning,
            stacklevel=2,
        )
        result[new] = result.pop(old)
    return result


class Section(BaseModel):
    """A group of settings; an unknown key is an error, so a typing mistake never passes silently.

    ``renamed`` maps old names of settings, which are accepted for one release, to the names of today.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    renamed: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _accept_old_names(cls, given: Any) -> Any:
        return under_new_names(given, cls.renamed) if cls.renamed and isinstance(given, Mapping) else given
