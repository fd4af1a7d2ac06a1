"""A traceback in the log shows where it happened, not the values of the variables there: those hold webhooks and passwords."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
from service.observability.logging import configure_logging, get_logger
configure_logging("info", "{form}")
def connect(password):
    raise OSError("no route")
try:
    connect("".join(["s3c", "ret"]))
except OSError:
    get_logger("test").exception("cannot connect")
"""


@pytest.mark.parametrize("form", ["pretty", "json"])
def test_a_traceback_shows_no_local_variables(form: str) -> None:
    done = subprocess.run([sys.executable, "-c", CODE.format(form=form)], capture_output=True, text=True, timeout=60, check=False)
    assert "no route" in done.stderr
    assert "connect" in done.stderr
    assert "s3cret" not in done.stderr
