"""How long work tells a person where it stands, without knowing how it is shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars


class Progress(Protocol):
    """Called at each step; ``total`` 0 means that nobody knows how much there is."""

    def __call__(self, step: str, done: int = 0, total: int = 0) -> None: ...


def silent(step: str, done: int = 0, total: int = 0) -> None:
    """Tell nobody."""


@contextmanager
def shown_on(console: Console) -> Iterator[Progress]:
    """Show each step as a line with a bar on ``console``; a step is done when the next one begins.

    Where the console is no terminal, one plain line a step instead.
    """
    if not console.is_terminal:
        told: set[str] = set()

        def line(step: str, done: int = 0, total: int = 0) -> None:  # noqa: ARG001 - a log wants the step, not every count
            if step not in told:
                told.add(step)
                console.print(f"{step} …")

        yield line
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=console) as bars:
        tasks: dict[str, int] = {}

        def bar(step: str, done: int = 0, total: int = 0) -> None:
            if step not in tasks:
                for task in bars.tasks:
                    bars.update(task.id, total=task.total or 1, completed=task.total or 1)
                tasks[step] = bars.add_task(step, total=total or None)
            bars.update(tasks[step], completed=done, total=total or None)  # type: ignore[arg-type]  # TaskID is an int of its own name

        yield bar
        for task in bars.tasks:
            bars.update(task.id, total=task.total or 1, completed=task.total or 1)
