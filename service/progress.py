"""How long work (training, reading a topic, replaying, starting a server) reports how far it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called again and again while the work goes on; ``total`` is 0 when it is not known."""

    def __call__(self, stage: str, done: int = 0, total: int = 0, detail: str = "", /) -> None: ...


def silent(stage: str, done: int = 0, total: int = 0, detail: str = "", /) -> None:
    """A ``Progress`` that shows nothing."""
