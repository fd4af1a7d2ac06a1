"""Starts real servers and workers, injects faults by a seeded schedule, lets them finish, and checks the results by the oracle."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import yaml

from service.app import open_bundle
from service.detectors.window_scorer import WindowScorer
from service.local.processes import free_port
from service.local.stack import LocalStack
from service.settings import Settings
from service.state.topics import create_topics
from tests.chaos.judge import Results, Verdict, judge, read_topic
from tests.chaos.oracle import Expected, expect
from tests.chaos.proxy import Proxy
from tests.chaos.worker import BUSY, HIT, KILL, STOP, Control, main
from tests.chaos.workload import SESSION_SECONDS, Feed, config, save_trained

# The kills: a part, and the point at which it dies; "random": at a random moment while work is in flight.
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
# The other faults, and after how many kills each is injected. "overtaken": see ``_overtake``.
OTHERS = {
    "sigstop": 15,
    "overtaken": 20,
    "kafka restart": 40,
    "elasticsearch restart": 40,
    "kafka cut": 25,
    "kafka slow": 40,
    "store cut": 40,
    "store 429": 40,
    "clock jump": 40,
    "rolling restart": 40,
}
WORKERS = ("scoring", "scoring", "store", "notify", "notify")
PATIENCE = 25.0  # seconds until an armed point is given up
STOP_SECONDS = 40.0  # a process gives its parts 30 to drain
SETTLE = 90.0  # seconds the workers get to finish after the last fault


class Receiver:
    """An HTTP endpoint that answers 200 and keeps the requests, in order."""

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
    """One worker process and the bytes it shares with the harness."""

    part: str
    process: Any
    control: Control

    @property
    def alive(self) -> bool:
        """True while the process runs (or is stopped)."""
        return bool(self.process.is_alive())


@dataclass
class Report:
    """The results that the table shows."""

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
    seconds: float = 0.0
    seconds_of: dict[str, float] = field(default_factory=dict)  # of each fault other than the kills

    @property
    def fewest(self) -> int:
        """Hits of the kind of kill with the fewest."""
        return min(self.faults[f"SIGKILL {part} {kind}"] for part, kind in KINDS)

    @property
    def good(self) -> bool:
        """The run's verdict; leaving out more than 1 % of the windows is a failure too, as is a point hardly reached."""
        enough = self.fewest >= self.kills // 20
        return self.verdict.good and enough and self.left_out <= 0.01 * max(self.windows, 1)


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
        others: Sequence[str] = tuple(OTHERS),
        say: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._random = random.Random(seed)
        self._seed, self._kills, self._mutation = seed, kills, mutation
        self._rows_a_second = rows_a_second
        self._other_faults = others
        self._say = say
        self._kafka, inner = Proxy(free_port()), free_port()
        self._kafka.port = free_port()
        protocols = ("PLAINTEXT", "CONTROLLER", "PROXIED")
        self._stack = LocalStack(
            folder / "servers",
            kafka_port=inner,
            kafka_listeners={"PROXIED": f"127.0.0.1:{self._kafka.target}"},
            kafka_settings={
                "group.min.session.timeout.ms": "1000",
                "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in protocols),
                # clients of the proxy are given the address of the proxy
                "advertised.listeners": f"PLAINTEXT://127.0.0.1:{inner},PROXIED://127.0.0.1:{self._kafka.port}",
            },
        )
        self._receiver = Receiver()
        self._workers: list[Worker | None] = [None] * len(WORKERS)
        self._started = 0
        self._report = Report(seed, mutation)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.chaos.worker"])

    async def run(self) -> Report:
        """The whole run, from starting the servers to the verdict."""
        begun = time.monotonic()
        servers = [await self._receiver.start(), await self._kafka.start(self._kafka.port)]
        try:
            await asyncio.to_thread(self._stack.up)
            self._store = Proxy(int(self._stack.elasticsearch_url.rpartition(":")[2]))
            servers.append(await self._store.start())
            await self._prepare()
            with self._all_workers():
                await self._faults()
                expected = await self._settle()
            await self._judge(expected)
        finally:
            for server in servers:
                server.close()
            await asyncio.to_thread(self._stack.down)
        self._report.seconds = time.monotonic() - begun
        return self._report

    async def _prepare(self) -> None:
        told = config(self._stack.kafka_servers, self._stack.elasticsearch_url, self._receiver.url, self._folder)
        through = (f"127.0.0.1:{self._kafka.port}", f"http://127.0.0.1:{self._store.port}")
        self._config = self._folder / "tidewatch.yaml"
        self._config.write_text(yaml.safe_dump(config(*through, self._receiver.url, self._folder)))
        self._settings = Settings(**told)  # ours: past the proxies
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
                    worker.process.join(STOP_SECONDS)
                    if worker.alive:
                        late = f"a {worker.part} worker did not stop within {STOP_SECONDS:g} s of SIGTERM"
                        self._report.verdict.examples.append(late)
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
        """Inject all kills, and the other faults evenly among them."""
        stop = asyncio.Event()
        feeding = asyncio.create_task(self._feed.run(stop))
        try:
            await asyncio.sleep(6)
            order = random.Random(self._random.random())
            others = [fault for fault in self._other_faults for _ in range(max(1, self._kills // OTHERS[fault]))]
            self._random.shuffle(others)
            asked, every = len(others), self._kills / (len(others) + 1)
            tries = 0
            while self._report.kills < self._kills:
                if feeding.done():
                    feeding.result()
                await self._kill(*self._next_kill(order))
                tries += 1
                while others and asked - len(others) < int(self._report.kills / every):
                    await self._other(others.pop())
                await asyncio.sleep(self._random.uniform(0.1, 1.0))
                if tries > 5 * max(self._kills, len(KINDS)):
                    raise RuntimeError("the schedule makes no progress: too few kills met work in flight")
            for other in others:
                await self._other(other)
        finally:
            stop.set()
            await feeding
        self._report.rows, self._report.messages = self._feed.rows, self._feed.messages

    def _next_kill(self, order: random.Random) -> tuple[str, str]:
        """A kind with the fewest hits so far, so that every point is covered."""
        hits = {kind: self._report.faults[f"SIGKILL {kind[0]} {kind[1]}"] for kind in KINDS}
        return order.choice([kind for kind in KINDS if hits[kind] == min(hits.values())])

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

    async def _until(self, reached: Callable[[], bool], seconds: float = PATIENCE) -> bool:
        deadline = time.monotonic() + seconds
        while not reached():
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.01)
        return True

    async def _other(self, fault: str) -> None:
        self._say(fault)
        begun = time.monotonic()
        acts: dict[str, Callable[[], Awaitable[None]]] = {
            "sigstop": self._stop_and_continue,
            "overtaken": self._overtake,
            "kafka restart": self._restart_kafka,
            "elasticsearch restart": self._restart_elasticsearch,
            "kafka cut": lambda: self._cut(self._kafka),
            "kafka slow": self._slow,
            "store cut": lambda: self._cut(self._store),
            "store 429": self._throttle,
            "clock jump": self._jump,
            "rolling restart": self._roll,
        }
        await acts[fault]()
        self._report.faults[fault] += 1
        spent = self._report.seconds_of
        spent[fault] = spent.get(fault, 0.0) + time.monotonic() - begun

    async def _restart_kafka(self) -> None:
        await asyncio.to_thread(self._stack.stop_kafka, kill=self._random.random() < 0.5)
        await asyncio.sleep(self._random.uniform(0.5, 6))
        await asyncio.to_thread(self._stack.start_kafka)
        await asyncio.sleep(5)

    async def _restart_elasticsearch(self) -> None:
        await asyncio.to_thread(self._stack.stop_elasticsearch, kill=self._random.random() < 0.5)
        await asyncio.sleep(self._random.uniform(2, 10))
        await asyncio.to_thread(self._stack.start_elasticsearch)

    async def _cut(self, proxy: Proxy) -> None:
        """Break all connections and refuse new ones for a moment; twice."""
        for seconds in (self._random.uniform(0.2, 1), self._random.uniform(0.5, 3)):
            proxy.refusing = True
            proxy.cut()
            await asyncio.sleep(seconds)
            proxy.refusing = False
            await asyncio.sleep(self._random.uniform(0.3, 2))

    async def _slow(self) -> None:
        """Delay all traffic with Kafka so much that heartbeats are just in time, or just late."""
        self._kafka.delay = self._random.uniform(0.05, 0.4)
        await asyncio.sleep(self._random.uniform(2, 5))
        self._kafka.delay = 0.0

    async def _throttle(self) -> None:
        """Elasticsearch answers every request with 429."""
        self._store.throttling = True
        self._store.cut()
        await asyncio.sleep(self._random.uniform(2, 6))
        self._store.throttling = False

    async def _jump(self) -> None:
        """Set the wall clocks of all workers some minutes ahead or back, and later right again."""
        minutes = self._random.choice((-20, -3, 3, 20))
        held = [worker for worker in self._workers if worker is not None]
        for off in (minutes, 0):
            for worker in held:
                worker.control.jump(off)
            await asyncio.sleep(self._random.uniform(1, 3))

    async def _roll(self) -> None:
        """Stop each worker in turn and start another one, as an upgrade does."""
        for slot, worker in enumerate(self._workers):
            assert worker is not None
            worker.process.terminate()
            await self._until(lambda worker=worker: not worker.alive)  # type: ignore[misc]  # bound now
            if worker.alive:
                self._report.verdict.wrong["workers that did not stop"] = 1
                worker.process.kill()
            worker.process.join()
            self._start(slot)
            await asyncio.sleep(self._random.uniform(0.2, 1))

    async def _overtake(self) -> None:
        """Finds a takeover that reads offsets before it fences. A worker is stopped just before it commits. The worker that takes
        over its partitions is stopped right after it read the committed offsets. Then the first continues, and then the second.

        If the second fenced first, the commit of the first fails. Otherwise the commit succeeds and the offsets of the second are
        stale. The first is killed after its commit, so that nothing else decides the outcome.
        """
        self._start_the_dead()  # a kill may have met both within one look
        first, second = (self._workers[at] for at in self._of("scoring"))
        assert first is not None
        assert second is not None
        first.control.arm("before-commit", STOP)
        if await self._until(lambda: bool(first.control.bytes[HIT])):
            second.control.arm("offsets-read", STOP)
            overtaken = await self._until(lambda: bool(second.control.bytes[HIT]), 3 * SESSION_SECONDS)
            first.control.arm("after-commit", KILL)
            os.kill(first.process.pid, signal.SIGCONT)
            await asyncio.sleep(0.7)
            first.control.arm("none", KILL)
            second.control.arm("none", KILL)
            if second.alive:
                os.kill(second.process.pid, signal.SIGCONT)
            else:
                self._say(f"overtaken: the second worker is gone, status {second.process.exitcode}")
            self._report.faults["overtaken in the middle of a commit"] += overtaken
            await asyncio.sleep(2)
        first.control.arm("none", KILL)
        self._start_the_dead()

    def _start_the_dead(self) -> None:
        for slot in self._of("scoring"):
            worker = self._workers[slot]
            if worker is not None and not worker.alive:
                worker.process.join()
                self._start(slot)

    async def _stop_and_continue(self) -> None:
        """Stop a scoring worker in the middle of a large transaction until another one takes its partitions; then let it continue.

        Both are killed first, so that the waiting records make the batch large. Mostly the stopped one continues while it is
        being replaced.
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
        """Wait until all expected results have arrived, at most ``SETTLE`` seconds."""
        for slot, worker in enumerate(self._workers):
            if worker is None or not worker.alive:
                self._start(slot)
        begun = time.monotonic()
        detector = WindowScorer(open_bundle(self._folder / "bundle"), self._settings.detection, bounds=self._settings.alerts.bounds)
        records = await read_topic(self._stack.kafka_servers, self._settings.kafka.topics.metrics)
        expected = await expect(records, self._settings, detector)
        detector.close()
        self._report.windows, self._report.left_out = expected.windows, expected.left_out_windows
        windows = f"{expected.windows} windows ({expected.early} of them early)"
        self._say(f"{windows}, {len(expected.transitions)} transitions expected; waiting for the workers")
        deadline = time.monotonic() + SETTLE
        while time.monotonic() < deadline:
            now = await self._compare(expected)
            if now.good:
                self._report.recovery.append(time.monotonic() - begun)
                await asyncio.sleep(3)  # duplicates would arrive now
                return expected
            # A duplicate stays. A stored alert may still be an older version.
            if any(count for what, count in now.wrong.items() if "doubled" in what and "stored" not in what):
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
