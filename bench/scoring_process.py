"""``tidewatch run --only scoring`` (or more parts) as users run it: its CPU time, memory and counters."""

from __future__ import annotations

import asyncio
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil
import yaml
from prometheus_client.parser import text_string_to_metric_families

from service.local.processes import free_port, port_is_free

START_SECONDS, STOP_SECONDS = 120.0, 60.0


@dataclass(frozen=True)
class Counted:
    """One poll of the process: when, and totals since its start. ``lags``: by upper bound in seconds, how often its event loop
    was at most so late (infinity: all samples)."""

    at: float
    cpu_seconds: float
    consumed: int
    scored: int
    not_scored: int
    rejected: int
    transitions: int
    stored: int
    lags: Mapping[float, int]

    def most_lag_ms(self, before: Counted) -> float:
        """An upper bound, ms, of every lag of the event loop since ``before``."""
        looks = self.lags[math.inf] - before.lags[math.inf]
        return min(bound for bound, count in self.lags.items() if count - before.lags[bound] == looks) * 1000


class ScoringProcess:
    """Starts on entering, drains on leaving. ``config`` is the settings tree; with several ``workers`` the totals are reported."""

    def __init__(self, config: dict[str, Any], folder: Path, parts: Sequence[str] = ("scoring",), *, workers: int = 1) -> None:
        self._port, self._workers = _free_ports(workers), workers
        self._parts = [word for part in parts for word in ("--only", part)]
        self._file, self.log = folder / f"scoring-{self._port}.yaml", folder / "scoring.log"
        self._file.write_text(yaml.safe_dump({**config, "http": {"port": self._port}}))
        self._client = httpx.AsyncClient(timeout=30)

    async def __aenter__(self) -> Self:
        environment = {**os.environ, "TIDEWATCH_LOG__FORMAT": "json"}
        command = [sys.executable, "-m", "service", "run", *self._parts, "--config", str(self._file)]
        command += ["--workers", str(self._workers)] if self._workers > 1 else []
        with self.log.open("ab") as log:
            self._process = await asyncio.to_thread(
                subprocess.Popen, command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment
            )
        self._seen = psutil.Process(self._process.pid)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._client.aclose()
        self._process.terminate()
        try:
            await asyncio.to_thread(self._process.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()

    async def look(self) -> Counted | None:
        """Its counters so far; None while it does not answer yet. Raises ``RuntimeError`` when it ended."""
        if self._process.poll() is not None:
            tail = " | ".join(self.log.read_text(errors="replace").splitlines()[-5:])
            raise RuntimeError(f"scoring ended with status {self._process.returncode}: {tail}")
        asked = [self._client.get(f"http://127.0.0.1:{self._port + at}/metrics") for at in range(self._workers)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        texts = [answer.text for answer in answers if isinstance(answer, httpx.Response)]
        if len(texts) < len(answers):
            return None
        now = time.perf_counter()
        times = [process.cpu_times() for process in self._processes()]
        totals: dict[str, float] = {}
        lags: dict[float, int] = {}
        for family in (family for text in texts for family in text_string_to_metric_families(text)):
            for sample in family.samples:
                totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
                if sample.name == "tidewatch_event_loop_lag_seconds_bucket":
                    bound = float(sample.labels["le"])
                    lags[bound] = lags.get(bound, 0) + int(sample.value)
        return Counted(
            at=now,
            cpu_seconds=sum(one.user + one.system for one in times),
            consumed=int(totals["tidewatch_records_consumed_total"]),
            scored=int(totals.get("tidewatch_windows_scored_total", 0)),
            not_scored=int(totals.get("tidewatch_windows_not_scored_total", 0)),
            rejected=int(totals.get("tidewatch_records_dead_lettered_total", 0)),
            transitions=int(totals.get("tidewatch_alert_transitions_total", 0)),
            stored=int(totals.get("tidewatch_alert_transitions_stored_total", 0)),
            lags=lags,
        )

    async def until_consumed(self, records: int, seconds: float, every: float = 0.1) -> list[Counted]:
        """Poll until it consumed so many; every poll. Raises ``TimeoutError``."""
        return await self.until(lambda look: look.consumed >= records, seconds, every)

    async def until(self, reached: Callable[[Counted], bool], seconds: float, every: float = 0.1) -> list[Counted]:
        """Poll until something is reached; every poll. Raises ``TimeoutError``."""
        looks: list[Counted] = []
        async with asyncio.timeout(seconds):
            while not looks or not reached(looks[-1]):
                await asyncio.sleep(every)
                if (look := await self.look()) is not None:
                    looks.append(look)
        return looks

    def _processes(self) -> list[psutil.Process]:
        """The process, or its workers."""
        return self._seen.children() if self._workers > 1 else [self._seen]

    def rss_mb(self) -> float:
        """Memory in use now, MB."""
        return sum(process.memory_info().rss for process in self._processes()) / 2**20

    def peak_rss_mb(self) -> float:
        """Peak memory, MB; with several workers, the sum of their peaks."""
        return sum(_peak_mb(process) for process in self._processes())


def _peak_mb(process: psutil.Process) -> float:
    status = Path(f"/proc/{process.pid}/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return float(process.memory_info().rss) / 2**20


def _free_ports(count: int) -> int:
    """The first of so many neighbouring free ports."""
    while True:
        first = free_port()
        if all(port_is_free(first + at) for at in range(count)):
            return first
