"""How long work (training, reading a topic, replaying) reports how far it is."""

from __future__ import annotations

from collections.abc import Callable

# progress(stage, done, total, detail), called again and again while the work goes on; ``total`` is 0 when it is not known.
Progress = Callable[[str, int, int, str], None]


def silent(stage: str, done: int, total: int, detail: str) -> None:
    """A ``Progress`` that shows nothing."""
