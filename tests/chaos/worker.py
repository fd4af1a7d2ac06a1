"""One worker: ``tidewatch run --only PART``, with the points at which the harness may kill or stop it wrapped from outside.

The control block is a few bytes shared with the harness: whether the worker has work in flight, at which point it is killed or
stopped, and whether it was. ``MUTATIONS`` are defects that the chaos run must find: each removes one step of the design.
"""

from __future__ import annotations

import mmap
import os
import signal
import sys
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

# Imported here so that the fork server has them already and a new worker starts at once.
from aiokafka import AIOKafkaProducer

import service.alerts.history.elasticsearch
import service.alerts.history.part
import service.alerts.notify.dispatcher
import service.alerts.notify.part
import service.alerts.receivers.webhook
import service.app
import service.cli
import service.clock
import service.commands.serve
import service.detectors.window_scorer
import service.stream.scoring
from service.state import notify_journal, producer, takeover, transactions

POINTS = (
    "none",
    "after-score",
    "after-produce",
    "before-commit",
    "after-commit",
    "offsets-read",
    "during-restore",
    "after-store",
    "before-notify",
    "after-notify",
)
BUSY, POINT, ACTION, HIT, MINUTES = range(5)
KILL, STOP = 1, 2
MUTATIONS = ("none", "skip-restore", "random-id", "offsets-first")


class Control:
    """The shared bytes, from either side."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(8))
        with path.open("r+b") as file:
            self.bytes = mmap.mmap(file.fileno(), 8)

    def arm(self, point: str, action: int) -> None:
        """Die (or stop) at ``point`` the next time it is passed."""
        self.bytes[HIT], self.bytes[ACTION] = 0, action
        self.bytes[POINT] = POINTS.index(point)

    def jump(self, minutes: int) -> None:
        """Set the worker's wall clock so many minutes (-100 to 100) ahead of the right time."""
        self.bytes[MINUTES] = minutes + 128

    def off_ms(self) -> int:
        """How far the worker's wall clock is ahead."""
        return (self.bytes[MINUTES] - 128) * 60_000 if self.bytes[MINUTES] else 0

    def pass_by(self, point: str) -> None:
        """Called by the worker at each point."""
        if self.bytes[POINT] == POINTS.index(point):
            self.bytes[POINT], self.bytes[HIT] = 0, 1
            os.kill(os.getpid(), signal.SIGKILL if self.bytes[ACTION] == KILL else signal.SIGSTOP)


def main(part: str, config: str, control: str, log: str, mutation: str) -> None:
    """The process."""
    told = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(told, 1)
    os.dup2(told, 2)
    os.environ["TIDEWATCH_CONFIG"] = config
    instrument(Control(Path(control)))
    mutate(mutation)
    sys.argv = ["tidewatch", "run", "--only", part]
    service.cli.main()


def instrument(control: Control) -> None:
    """Wrap the parts."""

    def wrapped(owner: Any, name: str, *, before: str = "", after: str = "", busy: Callable[..., bool] | None = None) -> None:
        original: Callable[..., Awaitable[Any]] = getattr(owner, name)

        async def replacement(*args: Any, **kwargs: Any) -> Any:
            at_work = busy is not None and busy(*args)
            control.bytes[BUSY] += at_work
            try:
                if before:
                    control.pass_by(before)
                result = await original(*args, **kwargs)
                if after:
                    control.pass_by(after)
                return result
            finally:
                control.bytes[BUSY] -= at_work

        setattr(owner, name, replacement)

    wrapped(service.stream.scoring.ScoringPart, "_handle", busy=lambda _, batch, *__: bool(batch.records))
    wrapped(service.detectors.window_scorer.WindowScorer, "detect", after="after-score")
    wrapped(AIOKafkaProducer, "send_offsets_to_transaction", before="after-produce")
    wrapped(AIOKafkaProducer, "commit_transaction", before="before-commit", after="after-commit")
    wrapped(takeover, "read_commits", after="offsets-read")
    wrapped(takeover, "read_state", before="during-restore")
    wrapped(
        service.alerts.history.elasticsearch.ElasticsearchAlertStore,
        "write",
        after="after-store",
        busy=lambda _, alerts: bool(alerts),
    )
    wrapped(
        service.alerts.receivers.webhook.WebhookNotifier, "send", before="before-notify", after="after-notify", busy=lambda *_: True
    )
    now_ms = service.clock.SystemClock.now_ms

    def ahead(clock: service.clock.SystemClock) -> int:
        return now_ms(clock) + control.off_ms()

    setattr(service.clock.SystemClock, "now_ms", ahead)  # noqa: B010 - mypy does not like a method assigned


def mutate(mutation: str) -> None:
    """Build one defect in."""
    if mutation == "skip-restore":

        async def nothing(kafka: Any, topic: str, partitions: list[int]) -> dict[int, dict[bytes, bytes]]:
            return {at: {} for at in partitions}

        takeover.read_state = nothing
    elif mutation == "random-id":
        init = producer.FencedProducer.__init__

        def at_random(self: Any, *args: Any, **kwargs: Any) -> None:
            init(self, *args, **kwargs)
            self.transactional_id += f"-{uuid.uuid4().hex}"

        producer.FencedProducer.__init__ = at_random  # type: ignore[method-assign]  # the mutation
    elif mutation == "offsets-first":

        async def wrong_order(kafka: Any, producers: Any, *, group: str, topic: str, state_topic: str) -> Any:
            commits = await takeover.read_commits(kafka, group, topic, list(producers))
            for each in producers.values():
                await each.claim()
            state = await takeover.read_state(kafka, state_topic, list(producers))
            return {at: takeover.TakenOver(commits.get(at), state[at]) for at in producers}

        for module in (transactions, notify_journal):
            module.__dict__["take_over"] = wrong_order
