"""One server process: started in its own process group, found again by later commands, stopped with all its children."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

from service.errors import LocalStackError

LOG_TAIL_LINES = 12


class Running(msgspec.Struct, frozen=True):
    """A started server as its pid file describes it; ``created`` tells it from another process that got its pid later."""

    pid: int
    created: float

    def alive(self) -> bool:
        """Whether exactly this process still runs."""
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.created) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


@dataclass(frozen=True)
class ServerProcess:
    """Starts, finds and stops one server. ``folder`` holds its pid file and its log."""

    name: str
    folder: Path

    @property
    def log(self) -> Path:
        """The server's output, of all its starts."""
        return self.folder / "server.log"

    @property
    def pid_file(self) -> Path:
        """Exists from ``start`` to ``stop``."""
        return self.folder / "server.pid"

    def running(self) -> Running | None:
        """The server's process, or ``None`` when it does not run."""
        try:
            started = msgspec.json.decode(self.pid_file.read_bytes(), type=Running)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        return started if started.alive() else None

    def start(self, command: Sequence[str], owner: int | None) -> Running:
        """Start ``command``; it ends with the process ``owner``, or runs until it is stopped when ``owner`` is ``None``."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if owner is not None:
            command = [sys.executable, "-I", str(Path(__file__).with_name("keeper.py")), str(owner), *command]
        with self.log.open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - the command is built by this package
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=plain_environment(),
                start_new_session=True,
            )
        running = Running(process.pid, psutil.Process(process.pid).create_time())
        self.pid_file.write_bytes(msgspec.json.encode(running))
        return running

    def wait_until(self, ready: Callable[[], bool], seconds: float, tick: Callable[[], None]) -> None:
        """Wait until ``ready()``; raises ``LocalStackError`` when the process ends first or the time is over."""
        deadline = time.monotonic() + seconds
        while not ready():
            if self.running() is None:
                raise LocalStackError(f"{self.name} ended while starting.", hint=self._log_tail())
            if time.monotonic() > deadline:
                raise LocalStackError(f"{self.name} did not answer within {seconds:.0f} s.", hint=self._log_tail())
            tick()
            time.sleep(0.1)

    def stop(self, *, seconds: float = 20.0, kill: bool = False) -> None:
        """End the process and its whole group: by SIGTERM, and after ``seconds`` (with ``kill`` at once) by SIGKILL."""
        running = self.running()
        if running is not None:
            group = _group(running.pid)
            if not kill:
                _signal_group(running.pid, signal.SIGTERM)
                psutil.wait_procs(group, timeout=seconds)
            _signal_group(running.pid, signal.SIGKILL)
            psutil.wait_procs(group, timeout=10.0)
            _reap(running.pid)
        self.pid_file.unlink(missing_ok=True)

    def _log_tail(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines() if self.log.exists() else []
        return f"Its log is {self.log}; it ends with:\n" + "\n".join(lines[-LOG_TAIL_LINES:])


def plain_environment() -> dict[str, str]:
    """Our environment without the variables that would change a JVM's options."""
    jvm = ("JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "CLASSPATH")
    return {name: value for name, value in os.environ.items() if name not in jvm}


def _group(pid: int) -> list[psutil.Process]:
    try:
        leader = psutil.Process(pid)
        return [leader, *leader.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _signal_group(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, number)


def _reap(pid: int) -> None:
    """Collect the exit status if the process was ours, so that no zombie stays in the process table."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def free_port() -> int:
    """A free loopback port. It lies below the range that the kernel uses for outgoing connections, so that it is still free
    when its server is started again."""
    for _ in range(200):
        port = random.randrange(20_000, 32_000)  # noqa: S311 - any free port will do
        if port_is_free(port):
            return port
    raise LocalStackError("No free port was found between 20000 and 32000.", hint="Name ports, or stop programs that listen there.")


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
