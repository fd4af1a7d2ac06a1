"""The pages of ``docs/reference/``, generated from the code: ``python -m tools.reference`` writes them (``make reference``).

Names, types and defaults come from the code. Meanings have one source each: comments of ``config.example.yaml`` for settings,
docstrings for detectors' options, ``#:`` comments for template variables, help texts for commands and metrics.
A name without a meaning is an error, so nothing new stays undocumented.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tools.reference import commands, detectors, metrics, settings, templates

PAGES: Mapping[str, Callable[[], str]] = {
    "settings.md": settings.page,
    "detectors.md": detectors.page,
    "templates.md": templates.page,
    "cli.md": commands.page,
    "metrics.md": metrics.page,
}
