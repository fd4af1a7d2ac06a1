"""Shows the messages that the demo's receivers got."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from service.demo.receivers import Mail, Posted
from service.terminal import plain, print_text


def is_over(subject: str) -> bool:
    """Whether a message with this subject says that an alert has resolved; every other one is about an alert that fires."""
    return "[RESOLVED]" in subject


def show_messages(console: Console, posted: Sequence[Posted], mails: Sequence[Mail]) -> None:
    """Print the first message of each receiver as its user would see it."""
    if not posted or not mails:
        print_text("No message was sent: nothing was unusual enough for an alert.", on=console)
        return
    # One about a firing alert, where there is one: at the speed of a replay an alert may resolve before its first message.
    first = next((one for one in posted if not is_over(one.json()["text"])), posted[0])
    mail = next((one for one in mails if not is_over(str(one.message["Subject"]))), mails[0])
    for title, text, colour in (
        ("Slack, first message", slack_text(first.json()), "magenta"),
        (f"E-mail: {mail.message['Subject']}", mail.text().strip(), "blue"),
    ):
        lines = Text("\n").join(plain(line) for line in text.splitlines())
        console.print(Panel(lines, title=plain(title), title_align="left", border_style=colour))
    last = mails[-1].message["Subject"]
    print_text(f"In all, Slack got {len(posted)} messages and the mailbox {len(mails)}. The last mail: {last}", on=console)


def slack_text(payload: dict[str, Any]) -> str:
    """The text of a Slack message, block by block."""
    lines = []
    for block in payload.get("blocks", []):
        texts = [block.get("text"), *block.get("fields", []), *block.get("elements", [])]
        lines += [text["text"] for text in texts if isinstance(text, dict) and isinstance(text.get("text"), str)]
    return "\n".join(lines) or str(payload.get("text", ""))
