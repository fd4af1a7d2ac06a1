"""What the terminal shows: text from outside is data there, and a narrow terminal cuts nothing off."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from service.terminal import history_table

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


@pytest.mark.xfail(strict=True, reason="A table reads rich's markup in names that producers choose, and its control characters")
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
