"""Runs one server for as long as its owner lives: ``python keeper.py OWNER_PID COMMAND…``.

The keeper leads the server's process group and kills the whole group when the owner is gone, so that a test run or demo that dies
by SIGKILL leaves no server behind. The kernel's parent-death signal does not serve: it is sent when the thread that forked ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

import psutil


def _die_with(owner: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(owner).wait()
    os.killpg(0, signal.SIGKILL)


def main(argv: list[str]) -> int:
    """Run ``argv[1:]`` until it ends or the process ``argv[0]`` does; returns its exit status."""
    # A handler, not SIG_IGN: an ignored signal would be inherited by the server, which must stop on it.
    signal.signal(signal.SIGTERM, lambda *_: None)
    threading.Thread(target=_die_with, args=(int(argv[0]),), daemon=True).start()
    with subprocess.Popen(argv[1:]) as child:  # noqa: S603 - the command comes from our own caller
        return child.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
