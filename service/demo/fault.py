"""The fault that the demo's alert is about: a runaway job on this machine, bounded in time, memory and disk.

It loads every core, takes memory, writes to disk, starts processes and floods the loopback. Many metrics move together, so that
it stands out also on a machine that does other work.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

MEMORY_SHARE = 0.2  # of what is free, at most MEMORY_MOST
MEMORY_MOST = 2 * 1024**3
DISK_MOST = 256 * 1024**2
PROCESSES = 50

# Each of these ends by itself when its time is over or its parent is gone, so that nothing outlives the demo.
_WATCH = """
import os, sys, time
os.nice(5)  # the service on the same machine must keep up
end, parent = time.monotonic() + float(sys.argv[1]), int(sys.argv[2])
def on(): return time.monotonic() < end and os.getppid() == parent
"""
_CPU = _WATCH + "\nwhile on():\n    sum(i * i for i in range(20000))\n"
_MEMORY = _WATCH + "\nheld = bytearray(int(sys.argv[3]))\nheld[::4096] = b'x' * len(held[::4096])\nwhile on(): time.sleep(0.05)\n"
_DISK = (
    _WATCH
    + """
block, limit = os.urandom(1 << 20), int(sys.argv[4])
with open(sys.argv[3], "wb") as file:
    while on():
        file.write(block); file.flush(); os.fsync(file.fileno())
        if file.tell() >= limit: file.seek(0)
"""
)
_PROCESSES = (
    _WATCH
    + """
for _ in range(int(sys.argv[3])):
    parent_now = os.getpid()
    if not os.fork():
        parent = parent_now
        while on(): time.sleep(0.1)
        os._exit(0)
while on(): time.sleep(0.05)
"""
)
_NETWORK = (
    _WATCH
    + """
import socket
there = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); there.bind(("127.0.0.1", 0))
here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); here.connect(there.getsockname())
while on():
    for _ in range(50): here.send(bytes(8192))
    time.sleep(0.002)
"""
)


@contextlib.contextmanager
def machine_fault(seconds: float) -> Iterator[None]:
    """Load every core, take a fifth of the free memory (at most 2 GB), write to disk, start processes that sleep, and send to
    the loopback, for ``seconds`` or until the block ends."""
    memory = int(min(psutil.virtual_memory().available * MEMORY_SHARE, MEMORY_MOST))
    with tempfile.TemporaryDirectory(prefix="tidewatch-fault-") as folder:
        disk = str(Path(folder) / "load")
        work: list[tuple[str, list[str]]] = [(_CPU, [])] * (os.cpu_count() or 1)
        work += [(_MEMORY, [str(memory)]), (_DISK, [disk, str(DISK_MOST)]), (_PROCESSES, [str(PROCESSES)]), (_NETWORK, [])]
        running = [
            subprocess.Popen(  # noqa: S603 - our own code, above
                [sys.executable, "-c", code, str(seconds), str(os.getpid()), *more],
                start_new_session=True,  # a process group of its own, so that its children end with it
            )
            for code, more in work
        ]
        try:
            yield
        finally:
            for process in running:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            for process in running:
                process.wait()
