"""What the terminal shows: text from outside is data there, and a narrow terminal cuts nothing off."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from service.terminal import LINE_SECONDS, LONGEST_LINE_SECONDS, ProgressLines, history_table

NASTY = [
    "[/evil]",
    "[link=https://evil.invalid]db-7[/link]",
    "[bold]db-7",
    "\\[red]",
    "db-7\x1b[2J",
    "db\n7",
    "\x9b31mdb",
    "a\u202eb",
]


def alert(**facts: str) -> dict[str, Any]:
    """An alert document with as much in it as a table shows."""
    ours = {"alert_id": "178c2a3e44", "peak_severity": "critical", "entity": "db-7", "status": "resolved", **facts}
    return {"tidewatch": ours, "event": {"start": "2026-11-23T14:48:49.123Z"}, "message": f"{ours['entity']} was unusual."}


def printed(what: Any, *, width: int = 200) -> str:
    """``what`` as a terminal of this width gets it, colours left out."""
    out = io.StringIO()
    Console(width=width, file=out, force_terminal=True, color_system=None).print(what)
    return out.getvalue()


@pytest.mark.parametrize("entity", NASTY)
def test_a_name_from_outside_is_shown_as_it_is_and_controls_nothing(entity: str) -> None:
    shown = printed(history_table([alert(entity=entity)]))
    visible = entity
    for character, written in (("\x1b", r"\x1b"), ("\n", r"\n"), ("\x9b", r"\x9b"), ("\u202e", r"\u202e")):
        visible = visible.replace(character, written)
    row = next(line for line in shown.splitlines() if "178c2a3e" in line)
    assert row.count(visible) == 2, "in the column of the entity and in the message"
    assert "\x1b" not in shown


def test_a_narrow_terminal_cuts_nothing_off() -> None:
    entity = "checkout-frontend-7f9c-eu-west"
    shown = printed(history_table([alert(entity=entity)]), width=80)
    assert "…" not in shown
    assert "2026-11-23 14:48:49" in shown


def test_progress_without_a_terminal_is_a_line_now_and_then() -> None:
    out, now = io.StringIO(), [0.0]
    show = ProgressLines(Console(file=out, width=20), lambda: now[0])
    show("reading")
    for done in range(1, 101):
        now[0] += LINE_SECONDS / 10
        show("learning", done, 100, "loss 0.5")
    show("learning", 100, 100, "again")
    for seconds in range(round(LONGEST_LINE_SECONDS) * 12):  # an hour
        now[0] += 1.0
        show("counting", seconds + 1)
    lines = out.getvalue().splitlines()
    assert lines[:2] == ["reading …", "learning: 1/100, loss 0.5"], "one when a stage begins"
    assert lines[11:13] == ["learning: 100/100, loss 0.5", "counting: 1"], "one when it is complete"
    assert len(lines[1:12]) == 10 + 1, "one every LINE_SECONDS, however narrow the output"
    assert [int(line.split()[1].replace(",", "")) for line in lines[12:20]] == [1, 6, 16, 36, 76, 156, 316, 616]
