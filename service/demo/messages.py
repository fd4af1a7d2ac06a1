"""The messages that the demo's receivers got, for people to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from service.demo.receivers import Mail, Posted


def is_over(subject: str) -> bool:
    """Whether a message with this subject tells that an alert ended; every other tells of one that fires."""
    return "[RESOLVED]" in subject


def show_messages(console: Console, posted: Sequence[Posted], mails: Sequence[Mail]) -> None:
    """The first message of each kind, as people would read it."""
    say = console.print
    if not posted or not mails:
        say("Nothing was unusual enough to tell anyone.")
        return
    # One about something that fires, where there is one: at a replay's speed an alert may be over before it is told.
    first = next((one for one in posted if not is_over(one.json()["text"])), posted[0])
    mail = next((one for one in mails if not is_over(str(one.message["Subject"]))), mails[0])
    say(Panel(Text(slack_text(first.json())), title="Slack, first message", title_align="left", border_style="magenta"))
    say(Panel(Text(mail.text().strip()), title=f"E-mail: {mail.message['Subject']}", title_align="left", border_style="blue"))
    say(f"Slack got {len(posted)} and the mailbox {len(mails)} messages in all, the last of them: {mails[-1].message['Subject']}")


def slack_text(payload: dict[str, Any]) -> str:
    """The words of a Slack message, block by block."""
    lines = []
    for block in payload.get("blocks", []):
        texts = [block.get("text"), *block.get("fields", []), *block.get("elements", [])]
        lines += [text["text"] for text in texts if isinstance(text, dict) and isinstance(text.get("text"), str)]
    return "\n".join(lines) or str(payload.get("text", ""))
