"""What is logged, and how."""

from __future__ import annotations

from typing import Literal

from service.settings.base import Section


class LogSettings(Section):
    """``auto`` is pretty on a terminal and JSON elsewhere."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "pretty", "json"] = "auto"
