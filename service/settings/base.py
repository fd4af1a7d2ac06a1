"""What every section of the settings is made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Seconds = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A group of settings; an unknown key is an error, so a typing mistake never passes silently."""

    model_config = ConfigDict(extra="forbid", frozen=True)
