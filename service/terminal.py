"""Terminal output: sentences, tables, progress, colours. The commands and the demo both use it.

Text from outside (names, labels, messages, keys) is data: ``plain`` shows it as it is, markup included, and writes control
characters out. ``print_text`` and the tables of ``listing`` do that to every ``str``; only a ``Text`` made by us has a style.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console, RenderableType
from rich.highlighter import JSONHighlighter
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from service.alerts.messages.moments import how_often
from service.alerts.times import every_days
from service.progress import Progress

if TYPE_CHECKING:
    from service.detectors.bundle import Bundle

COLOURS = {"critical": "bold red", "warning": "yellow", "info": "cyan"}
LINE_SECONDS = 5.0  # between two progress lines of one stage
LONGEST_LINE_SECONDS = 300.0  # the same for a stage that may go on for days

# Results go to standard output; progress, logs and errors to standard error, so that output can be piped.
console = Console()
error_console = Console(stderr=True)

# C0 and C1 controls, line and paragraph separators, marks that change the direction of text, lone surrogates.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_CONTROLS_IN_JSON = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")  # the others are written out already


def visible(text: str) -> str:
    """Text from outside with its control characters as Python writes them (``\\x1b``, ``\\n``)."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def plain(text: str, style: str = "") -> Text:
    """The same in one style, its markup shown and not followed."""
    return Text(visible(text), style=style)


def print_text(text: str | Text, *, on: Console = console) -> None:
    """Print a sentence. Where ``on`` is no terminal, it stays on one line."""
    on.print(plain(text) if isinstance(text, str) else text, highlight=False, soft_wrap=not on.is_terminal)


def print_json(value: Any) -> None:
    """Print ``value`` as indented JSON on standard output."""
    encoded = msgspec.json.format(msgspec.json.encode(value)).decode()
    written = _CONTROLS_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", encoded)
    console.print(JSONHighlighter()(Text(written)), soft_wrap=True)


class PlainTable(Table):
    """A table whose ``str`` cells are text from outside."""

    def add_row(self, *renderables: RenderableType | None, style: Any = None, end_section: bool = False) -> None:
        """As rich's, with every ``str`` made ``plain``."""
        cells = [plain(cell) if isinstance(cell, str) else cell for cell in renderables]
        super().add_row(*cells, style=style, end_section=end_section)


def listing(*names: str, whole: Container[str] = (), title: str | None = None) -> Table:
    """An empty table with these columns. In a narrow terminal those named ``whole`` keep their cells on one line, the others
    wrap; nothing is cut off."""
    table = PlainTable(title=None if title is None else plain(title), title_justify="left")
    for name in names:
        table.add_column(name, no_wrap=name in whole, overflow="fold")
    return table


def tick(good: bool) -> Text:
    """A green tick or a red cross."""
    return Text("✔", "green") if good else Text("✘", "red")


@contextmanager
def working(what: str, *, on: Console = error_console) -> Iterator[None]:
    """Show that something takes time: a spinner while the block lasts, or one line where ``on`` is no terminal."""
    if on.is_terminal:
        with on.status(plain(what)):
            yield
    else:
        print_text(f"{what} …", on=on)
        yield


@contextmanager
def progress_bar(on: Console = error_console) -> Iterator[Progress]:
    """A live bar for each stage, or plain lines where ``on`` is no terminal: call what is yielded as the work goes on."""
    if not on.is_terminal:
        yield ProgressLines(on)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
    )
    with Bars(*columns, console=on) as bars:
        tasks: dict[str, TaskID] = {}

        def finish_open_ended() -> None:
            for task in bars.tasks:
                if task.total is None:
                    bars.update(task.id, total=task.completed or 1, completed=task.completed or 1)

        def show(stage: str, done: int = 0, total: int = 0, detail: str = "") -> None:
            if stage not in tasks:
                finish_open_ended()  # a stage that never knew its total is over when the next one begins
                tasks[stage] = bars.add_task(visible(stage), total=total or None, detail="")
            bars.update(tasks[stage], completed=done, total=total or None, detail=visible(detail))

        yield show
        finish_open_ended()


class ProgressLines:
    """Progress as plain lines: one when a stage begins, one at most every ``LINE_SECONDS`` while it lasts, one when it is done.

    While the total is not known, each wait is twice the one before, up to ``LONGEST_LINE_SECONDS``: an agent runs for days.
    """

    def __init__(self, on: Console, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._on = on
        self._monotonic = monotonic
        self._next_line: dict[str, float] = {}
        self._wait: dict[str, float] = {}
        self._complete: set[str] = set()

    def __call__(self, stage: str, done: int = 0, total: int = 0, detail: str = "") -> None:
        """Print a line if one is due."""
        now = self._monotonic()
        completes = 0 < total <= done and stage not in self._complete
        if not completes and now < self._next_line.get(stage, -math.inf):
            return
        wait = self._wait.get(stage, LINE_SECONDS)
        self._next_line[stage] = now + wait
        if not total:
            self._wait[stage] = min(wait * 2, LONGEST_LINE_SECONDS)
        if completes:
            self._complete.add(stage)
        counts = f"{done:,}/{total:,}" if total else f"{done:,}" if done else ""
        shown = ", ".join(filter(None, (counts, detail)))
        print_text(f"{stage}: {shown}" if shown else f"{stage} …", on=self._on)


def to_the_second(timestamp: str) -> str:
    """The ISO time of a document for a table: ``2026-11-22 09:30:00``."""
    return timestamp[:19].replace("T", " ")


def history_table(found: list[dict[str, Any]]) -> Table:
    """Alert documents as a table."""
    table = listing("id", "started (UTC)", "entity", "severity", "status", "what", whole={"id", "started (UTC)"})
    for alert in found:
        ours = alert["tidewatch"]
        severity = Text(ours["peak_severity"], style=COLOURS[ours["peak_severity"]])
        started = to_the_second(alert["event"]["start"])
        table.add_row(ours["alert_id"][:8], started, ours["entity"], severity, ours["status"], alert["message"])
    return table


def bundle_table(bundle: Bundle, path: Path) -> Table:
    """What a bundle was trained on and how rare it can call a window, as a table."""
    tail = bundle.calibration()
    table = PlainTable(title=plain(f"Bundle {bundle.name}"), title_justify="left", show_header=False)
    table.add_row("where", str(path))
    table.add_row("version", bundle.version[:12])
    table.add_row("metrics", f"{bundle.schema.dims}: {shortened(bundle.schema.metrics)}")
    if bundle.scaler.left_out:
        table.add_row("left out", left_out_metrics(bundle))
    early = " and where the metrics jump" if bundle.early_change is not None else ""
    table.add_row("window", f"{bundle.window} rows of {bundle.schema.interval_ms / 1000:g} s, scored every {bundle.stride}{early}")
    table.add_row("detectors", ", ".join(member.name for member in bundle.members))
    table.add_row("calibrated on", f"{tail.n_eff:,.0f} independent windows")
    table.add_row("claims", f"at most one window in {1 / tail.floor:,.0f}: {rarest_claim(bundle)}")
    return table


def rarest_claim(bundle: Bundle) -> str:
    """The rarest that a bundle calls a window of one entity, in time."""
    days = every_days(bundle.calibration().floor, bundle.stride, bundle.schema.interval_ms)
    return f"{how_often(days)} for one entity"


def left_out_metrics(bundle: Bundle) -> str:
    """Which metrics take no part in any score, and why."""
    names = [bundle.schema.metrics[at] for at in bundle.scaler.left_out]
    return f"{len(names)} metrics that took at most two values in training and would outvote the others: {shortened(tuple(names))}"


def shortened(names: tuple[str, ...], most: int = 6) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
