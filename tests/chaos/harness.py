"""Starts real servers and workers, harms them by a seeded schedule, lets them finish, and asks the oracle."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import yaml

from service.app import open_bundle
from service.detectors.realtime import RealTimeAnomalyDetector
from service.local.stack import LocalStack
from service.settings import Settings
from service.state.topics import create_topics
from tests.chaos.judge import Results, Verdict, judge, read_topic
from tests.chaos.oracle import Expected, expect
from tests.chaos.worker import BUSY, HIT, KILL, STOP, Control, main
from tests.chaos.workload import SESSION_SECONDS, Feed, config, save_trained

# Which part each named point belongs to; "random" kills by the clock, while work is in flight.
KINDS = (
    ("scoring", "after-score"),
    ("scoring", "after-produce"),
    ("scoring", "before-commit"),
    ("scoring", "after-commit"),
    ("scoring", "during-restore"),
    ("scoring", "random"),
    ("store", "after-store"),
    ("notify", "before-notify"),
    ("notify", "after-notify"),
    ("notify", "before-commit"),
)
WORKERS = ("scoring", "scoring", "store", "notify", "notify")
PATIENCE = 25.0  # seconds until an armed point is given up
SETTLE = 90.0  # seconds the workers get to finish after the last fault


class Receiver:
    """An HTTP endpoint that answers 200 and keeps what it got, in order."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, dict[str, Any]]] = []
        self.url = ""

    async def start(self) -> asyncio.Server:
        """Serve on a free port."""
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
        return server

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
                body = msgspec.json.decode(await reader.readexactly(int(headers.get("content-length", "0"))))
                for alert in body["alerts"]:
                    self.messages.append((headers["idempotency-key"], alert))
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                await writer.drain()
        writer.close()


@dataclass
class Worker:
    """One worker process and the bytes it shares with us."""

    part: str
    process: Any
    control: Control

    @property
    def alive(self) -> bool:
        """True while the process runs (or is stopped)."""
        return bool(self.process.is_alive())


@dataclass
class Report:
    """What the table shows."""

    seed: int
    mutation: str
    faults: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    not_counted: int = 0
    rows: int = 0
    messages: int = 0
    windows: int = 0
    left_out: int = 0
    recovery: list[float] = field(default_factory=list)
    verdict: Verdict = field(default_factory=Verdict)
    unfinished: bool = False
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """The run's verdict; leaving out more than 1 % of the windows is a failure too."""
        return self.verdict.good and not self.unfinished and self.left_out <= 0.01 * max(self.windows, 1)


class Chaos:
    """One run."""

    def __init__(
        self,
        folder: Path,
        *,
        seed: int,
        kills: int,
        mutation: str = "none",
        rows_a_second: float = 20.0,
        say: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._random = random.Random(seed)
        self._seed, self._kills, self._mutation = seed, kills, mutation
        self._rows_a_second = rows_a_second
        self._say = say
        self._stack = LocalStack(folder / "servers", kafka_settings={"group.min.session.timeout.ms": "1000"})
        self._receiver = Receiver()
        self._workers: list[Worker | None] = [None] * len(WORKERS)
        self._started = 0
        self._report = Report(seed, mutation)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.chaos.worker"])

    async def run(self) -> Report:
        """Everything, from starting the servers to the verdict."""
        begun = time.monotonic()
        server = await self._receiver.start()
        try:
            await asyncio.to_thread(self._stack.up)
            await self._prepare()
            with self._all_workers():
                await self._faults()
                expected = await self._settle()
            await self._judge(expected)
        finally:
            server.close()
            await asyncio.to_thread(self._stack.down)
        self._report.seconds = time.monotonic() - begun
        return self._report

    async def _prepare(self) -> None:
        told = config(self._stack.kafka_servers, self._stack.elasticsearch_url, self._receiver.url, self._folder)
        self._config = self._folder / "tidewatch.yaml"
        self._config.write_text(yaml.safe_dump(told))
        self._settings = Settings(**told)
        save_trained(self._folder / "bundle")
        await create_topics(self._settings.kafka)
        self._feed = Feed(self._settings.kafka, self._seed, self._rows_a_second)

    # --- workers -------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _all_workers(self) -> Iterator[None]:
        try:
            for slot in range(len(WORKERS)):
                self._start(slot)
            yield
        finally:
            for worker in self._workers:
                if worker is not None and worker.alive:
                    os.kill(worker.process.pid, signal.SIGCONT)
                    worker.process.terminate()
            for worker in self._workers:
                if worker is not None:
                    worker.process.join(20)
                    if worker.alive:
                        self._report.verdict.examples.append(f"a {worker.part} worker did not stop within 20 s of SIGTERM")
                        self._report.verdict.wrong["workers that did not stop"] = 1
                        worker.process.kill()
                        worker.process.join()

    def _start(self, slot: int, armed: str = "none", action: int = KILL) -> Worker:
        self._started += 1
        control = self._folder / f"control-{self._started}"
        worker = Worker(WORKERS[slot], None, Control(control))
        if armed != "none":
            worker.control.arm(armed, action)
        log = self._folder / f"{WORKERS[slot]}-{slot}.log"
        told = (WORKERS[slot], str(self._config), str(control), str(log), self._mutation)
        worker.process = self._context.Process(target=main, args=told)
        worker.process.start()
        self._workers[slot] = worker
        return worker

    # --- faults --------------------------------------------------------------------------------------------------------

    async def _faults(self) -> None:
        """Kill as often as asked; beside that, stop processes and restart servers."""
        stop = asyncio.Event()
        feeding = asyncio.create_task(self._feed.run(stop))
        try:
            await asyncio.sleep(6)
            plan = [KINDS[at % len(KINDS)] for at in range(max(self._kills, len(KINDS)))]
            self._random.shuffle(plan)
            restarts = ["kafka restart", "elasticsearch restart"] * max(1, self._kills // 40)
            others = ["sigstop"] * max(4, self._kills // 10) + restarts
            self._random.shuffle(others)
            every = max(1, self._kills // (len(others) + 1))
            turn = 0
            while self._report.kills < self._kills:
                if feeding.done():
                    feeding.result()
                part, kind = plan[turn % len(plan)]
                turn += 1
                await self._kill(part, kind)
                if turn % every == 0 and others:
                    await self._other(others.pop())
                await asyncio.sleep(self._random.uniform(0.1, 1.5))
                if turn > 5 * len(plan):
                    raise RuntimeError("the schedule makes no progress: too few kills met work in flight")
            for other in others:
                await self._other(other)
        finally:
            stop.set()
            await feeding
        self._report.rows, self._report.messages = self._feed.rows, self._feed.messages

    def _of(self, part: str) -> list[int]:
        return [slot for slot, name in enumerate(WORKERS) if name == part]

    async def _kill(self, part: str, kind: str) -> None:
        slots = self._of(part)
        self._random.shuffle(slots)
        if kind == "during-restore":
            await self._kill(part, "random")
            # whichever takes the partitions over next: the replacement, started armed
            slot = next(iter(slots))
            worker = self._workers[slot]
            assert worker is not None
            worker.process.kill()
            worker.process.join()
            worker = self._start(slot, armed=kind)
            hit = await self._until(lambda: not worker.alive)
        elif kind == "random":
            slot, hit = await self._kill_busy(slots)
        else:
            slot, hit = await self._kill_at(slots, kind)
        label = f"SIGKILL {part} {kind}"
        self._say(f"{label}: {'hit' if hit else 'nothing in flight'}")
        if hit:
            self._report.kills += 1
            self._report.faults[label] += 1
        else:
            self._report.not_counted += 1
        for at in slots:
            held = self._workers[at]
            if held is None or not held.alive:
                if held is not None:
                    held.process.join()
                self._start(at)

    async def _kill_at(self, slots: list[int], point: str) -> tuple[int, bool]:
        """Arm every worker of the part; the first that passes dies."""
        held = {slot: worker for slot in slots if (worker := self._workers[slot]) is not None}
        for worker in held.values():
            worker.control.arm(point, KILL)
        await self._until(lambda: any(not worker.alive for worker in held.values()))
        for worker in held.values():
            worker.control.arm("none", KILL)
        died = [slot for slot, worker in held.items() if not worker.alive]
        return (died or slots)[0], bool(died)

    async def _kill_busy(self, slots: list[int]) -> tuple[int, bool]:
        """Kill one that has work in flight, a moment into it."""
        worker = self._workers[slots[0]]
        assert worker is not None
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            if worker.control.bytes[BUSY]:
                await asyncio.sleep(self._random.uniform(0, 0.02))
                if worker.control.bytes[BUSY]:
                    break
            await asyncio.sleep(0.001)
        worker.process.kill()
        worker.process.join()
        return slots[0], bool(worker.control.bytes[BUSY])

    async def _until(self, reached: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + PATIENCE
        while not reached():
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.01)
        return True

    async def _other(self, fault: str) -> None:
        self._say(fault)
        if fault == "sigstop":
            await self._stop_and_continue()
        elif fault == "kafka restart":
            await asyncio.to_thread(self._stack.stop_kafka, kill=self._random.random() < 0.5)
            await asyncio.sleep(self._random.uniform(0.5, 6))
            await asyncio.to_thread(self._stack.start_kafka)
            self._report.faults[fault] += 1
            await asyncio.sleep(8)
        else:
            await asyncio.to_thread(self._stack.stop_elasticsearch, kill=self._random.random() < 0.5)
            await asyncio.sleep(self._random.uniform(2, 10))
            await asyncio.to_thread(self._stack.start_elasticsearch)
            self._report.faults[fault] += 1

    async def _stop_and_continue(self) -> None:
        """Stop a scoring worker in the middle of a large transaction until another one takes its partitions; then it wakes up.

        Both are killed first, so that what waits for them makes the batch large; as a rule the stopped one wakes up just while
        it is being replaced.
        """
        slots = self._of("scoring")
        for slot in slots:
            if (worker := self._workers[slot]) is not None:
                worker.process.kill()
                worker.process.join()
        await asyncio.sleep(2.5)
        point = self._random.choice(("after-produce", "before-commit"))
        held = [self._start(slot, armed=point, action=STOP) for slot in slots]
        await self._until(lambda: any(worker.control.bytes[HIT] for worker in held))
        for worker in held:
            if not worker.control.bytes[HIT]:
                worker.control.arm("none", KILL)
        stopped = [worker for worker in held if worker.control.bytes[HIT]]
        longer = self._random.uniform(0.4, 1.6) if self._random.random() < 0.7 else self._random.uniform(1.6, 4)
        await asyncio.sleep(SESSION_SECONDS + longer)
        for worker in stopped:
            os.kill(worker.process.pid, signal.SIGCONT)
        self._report.faults[f"SIGSTOP scoring {point}"] += len(stopped)
        await asyncio.sleep(3)

    # --- the end -------------------------------------------------------------------------------------------------------

    async def _settle(self) -> Expected:
        """Wait until everything that must come out is out (or for ``SETTLE`` seconds)."""
        for slot, worker in enumerate(self._workers):
            if worker is None or not worker.alive:
                self._start(slot)
        begun = time.monotonic()
        detector = RealTimeAnomalyDetector(open_bundle(self._folder / "bundle"), self._settings.detection)
        records = await read_topic(self._stack.kafka_servers, self._settings.kafka.topics.metrics)
        expected = await expect(records, self._settings, detector)
        detector.close()
        self._report.windows, self._report.left_out = expected.windows, expected.left_out_windows
        self._say(f"{expected.windows} windows, {len(expected.transitions)} transitions expected; waiting for the workers")
        while time.monotonic() - begun < SETTLE:
            if (await self._compare(expected)).good:
                self._report.recovery.append(time.monotonic() - begun)
                await asyncio.sleep(3)  # anything too much would come now
                return expected
            await asyncio.sleep(2)
        return expected

    async def _compare(self, expected: Expected) -> Verdict:
        results = Results(self._settings)
        return judge(expected, await results.emitted(), await results.dead(), await results.stored(), list(self._receiver.messages))

    async def _judge(self, expected: Expected) -> None:
        found = await self._compare(expected)
        found.wrong |= self._report.verdict.wrong
        found.examples += self._report.verdict.examples
        self._report.verdict = found
