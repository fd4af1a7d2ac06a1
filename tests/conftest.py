"""What every test may ask for: a real Kafka, a real Elasticsearch, the labelled series.

``KAFKA_BOOTSTRAP_SERVERS`` and ``ELASTICSEARCH_URL`` point at servers that exist already; otherwise one local stack is started
for the whole run, shared by all xdist workers, and it ends with the run however the run ends. Where a server or the data cannot
be had, tests fail in CI (``CI`` set) and are skipped elsewhere, and the summary says so loudly.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import stamina
import structlog

from service.errors import LocalStackError
from service.local.stack import LocalStack
from service.observability.logging import _NOISY, _SECRETIVE

REPOSITORY = Path(__file__).resolve().parent.parent
IN_CI = os.environ.get("CI", "").lower() not in ("", "0", "false")
WANTING = "WANTING: "  # marks the skips that the summary tells loudly


STATE_VARIABLE = "_TEST_STACK_STATE"  # set by the controller, inherited by xdist's workers
OWNER_VARIABLE = "_TEST_STACK_OWNER"


def _is_worker() -> bool:
    return "PYTEST_XDIST_WORKER" in os.environ


def pytest_configure() -> None:
    """One state folder a run; its servers live and die with the controlling process, whichever worker starts them."""
    if not _is_worker():
        os.environ[STATE_VARIABLE] = tempfile.mkdtemp(prefix="tidewatch-tests-")
        os.environ[OWNER_VARIABLE] = str(os.getpid())


def pytest_unconfigure() -> None:
    """The controller stops what any worker started."""
    if not _is_worker():
        state = Path(os.environ[STATE_VARIABLE])
        LocalStack(state).down()
        shutil.rmtree(state, ignore_errors=True)


def _wanting(what: str) -> None:
    if IN_CI:
        pytest.fail(f"{what} (CI must not pass without it)", pytrace=False)
    pytest.skip(WANTING + what)


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """What a test does to the logging of the process ends with it: commands run in this process configure it, and a test of another
    file that runs after them must not see their levels."""
    root = logging.getLogger()
    handlers = root.handlers[:]
    levels = {logger: logger.level for logger in (root, *map(logging.getLogger, (*_NOISY, *_SECRETIVE)))}
    yield
    root.handlers[:] = handlers
    for logger, level in levels.items():
        logger.setLevel(level)
    structlog.reset_defaults()
    stamina.instrumentation.set_on_retry_hooks(None)


@pytest.fixture(scope="session")
def local_stack() -> LocalStack:
    """The run's own stack, not started; tests that stop servers must make one of their own instead."""
    return LocalStack(Path(os.environ[STATE_VARIABLE]), owner=int(os.environ[OWNER_VARIABLE]))


@pytest.fixture(scope="session")
def kafka_servers(local_stack: LocalStack) -> str:
    """``host:port`` of a real Kafka."""
    given = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    if given:
        return given
    try:
        local_stack.start_kafka()
    except LocalStackError as error:
        _wanting(f"no Kafka: {error} {error.hint}")
    return local_stack.kafka_servers


@pytest.fixture(scope="session")
def elasticsearch_url(local_stack: LocalStack) -> str:
    """URL of a real Elasticsearch."""
    given = os.environ.get("ELASTICSEARCH_URL")
    if given:
        return given
    try:
        local_stack.start_elasticsearch()
    except LocalStackError as error:
        _wanting(f"no Elasticsearch: {error} {error.hint}")
    return local_stack.elasticsearch_url


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The labelled series: ``TIDEWATCH_DATA``, else ``shared/data`` beside the checkout."""
    named = os.environ.get("TIDEWATCH_DATA")
    path = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"{WANTING}no labelled series in {path}; set TIDEWATCH_DATA to the folder that holds them")
    return path


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was not tested, so that nobody takes a run without servers for a full one."""
    reasons: dict[str, int] = {}
    for report in terminalreporter.stats.get("skipped", []):
        told = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if WANTING in told:
            reason = told.split(WANTING, 1)[1]
            reasons[reason] = reasons.get(reason, 0) + 1
    if reasons:
        terminalreporter.section("NOT TESTED", sep="!", red=True, bold=True)
        for reason, count in reasons.items():
            terminalreporter.line(f"{count} test{'s' if count > 1 else ''} skipped: {reason}", red=True)
