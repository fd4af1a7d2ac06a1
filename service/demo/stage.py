"""What the acts of the demo share: the servers, the receivers, and telling the user what happens."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.rule import Rule
from rich.text import Text

from service.demo.messages import is_over
from service.demo.receivers import HttpReceiver, MailReceiver
from service.errors import LocalStackError
from service.local.stack import LocalStack
from service.terminal import print_text

ACTS = 7
READY_SECONDS = 120.0  # for the service to start
WAIT_SECONDS = 60.0  # for an alert to arrive


class Received(NamedTuple):
    """How many messages each receiver has accepted."""

    slack: int = 0
    mail: int = 0


@dataclass(frozen=True)
class Stage:
    """What the demo started, for its acts to use."""

    console: Console
    folder: Path
    stack: LocalStack
    slack: HttpReceiver
    inbox: MailReceiver
    live: bool  # this machine's own metrics, not a data set

    def act(self, number: int, title: str) -> None:
        """Announce the next act."""
        self.console.print(Rule(Text.assemble((f"{number} of {ACTS}", "bold"), f"  {title}"), align="left"))

    def print_text(self, text: str | Text) -> None:
        """Print a sentence."""
        print_text(text, on=self.console)

    async def wait(self, what: str, seconds: float) -> None:
        """Wait, and show how much of the time is left."""
        if seconds <= 0:
            return
        if not self.console.is_terminal:
            self.print_text(f"  {what} ({seconds:.0f} s)")
            await asyncio.sleep(seconds)
            return
        steps = max(1, round(seconds * 4))
        columns = TextColumn(f"  {what}"), BarColumn(), TimeRemainingColumn()
        with Progress(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task(what, total=steps)
            for _ in range(steps):
                await asyncio.sleep(seconds / steps)
                bar.advance(task)

    def received(self) -> Received:
        """How many messages have arrived so far."""
        return Received(len(self.slack.accepted), len(self.inbox.accepted))

    async def delivered(self, status: str, after: Received = Received()) -> None:  # noqa: B008 - immutable
        """Wait until each receiver has a message about an alert that is ``status``, beyond the first ``after`` messages.

        Raises ``LocalStackError`` when none arrives.
        """
        resolved = status == "resolved"
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while not (
                    any(is_over(posted.json()["text"]) == resolved for posted in self.slack.accepted[after.slack :])
                    and any(is_over(str(mail.message["Subject"])) == resolved for mail in self.inbox.accepted[after.mail :])
                ):
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise LocalStackError(
                f"No {status} alert reached the receivers within {WAIT_SECONDS:g} s.",
                hint="This machine may have been as busy while the model was trained. Run the demo again when it is less busy.",
            ) from None
