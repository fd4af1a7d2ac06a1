"""The demo's fault really loads the machine, and leaves nothing behind."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import psutil

from service.demo.fault import PROCESSES, machine_fault


def test_the_fault_starts_loads_and_leaves_nothing() -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with machine_fault(20):
        children: list[psutil.Process] = []
        deadline = time.monotonic() + 20
        while len(children) < (psutil.cpu_count() or 1) + 4 + PROCESSES and time.monotonic() < deadline:
            time.sleep(0.1)
            children = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
        busy = sum(sum(child.cpu_times()[:2]) for child in children)
        assert len(children) == (psutil.cpu_count() or 1) + 4 + PROCESSES
        assert busy > 0
        assert list(Path(tempfile.gettempdir()).glob("tidewatch-fault-*"))
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
    assert not list(Path(tempfile.gettempdir()).glob("tidewatch-fault-*"))
