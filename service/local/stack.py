"""The local stack: one real Kafka and one real Elasticsearch on the loopback, started and stopped together or each by itself."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from service.errors import LocalStackError
from service.local import jars
from service.local.elasticsearch import Elasticsearch, cluster_status
from service.local.kafka import Kafka, metadata_brokers
from service.local.ports import Ports, PortsFile
from service.local.processes import ServerProcess, port_is_free
from service.progress import Progress, silent

HOST = "127.0.0.1"
USABLE = ("green", "yellow")
START_SECONDS = 120.0


@dataclass(frozen=True)
class ServerStatus:
    """One server as ``tidewatch local status`` shows it."""

    name: str
    endpoint: str
    pid: int | None
    healthy: bool
    log: Path


def _status(server: ServerProcess, endpoint: str, answers: Callable[[], bool]) -> ServerStatus:
    running = server.running()
    return ServerStatus(server.name, endpoint, running.pid if running else None, running is not None and answers(), server.log)


class LocalStack:
    """Kafka and Elasticsearch, with their data, settings, logs and pid files under ``state_dir``.

    Port 0 means a free one, chosen once and then kept with the data. The servers end with the process ``owner`` (by default the
    calling one), unless they are started with ``detach``. Every method may be called again at any time; several processes may
    share one ``state_dir``.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        kafka_port: int = 0,
        elasticsearch_port: int = 0,
        owner: int | None = None,
        kafka_listeners: Mapping[str, str] | None = None,
        kafka_settings: Mapping[str, str] | None = None,
    ) -> None:
        """``kafka_listeners``: more listeners than the plain one (name → ``host:port``); ``kafka_settings``: their security."""
        self.state_dir = state_dir.absolute()
        self._wanted_kafka_port = kafka_port
        self._wanted_elasticsearch_port = elasticsearch_port
        self._owner = owner
        self._kafka_listeners = dict(kafka_listeners or {})
        self._kafka_settings = dict(kafka_settings or {})
        self._kafka = ServerProcess("Kafka", self.state_dir / "kafka")
        self._elasticsearch = ServerProcess("Elasticsearch", self.state_dir / "elasticsearch")
        self._ports = PortsFile(self.state_dir / "ports.json")

    @property
    def kafka_servers(self) -> str:
        """``host:port`` of the broker. Raises ``LocalStackError`` before the first ``up``."""
        return f"{HOST}:{self._known_ports().kafka}"

    @property
    def elasticsearch_url(self) -> str:
        """URL of the node. Raises ``LocalStackError`` before the first ``up``."""
        return f"http://{HOST}:{self._known_ports().elasticsearch}"

    def up(self, progress: Progress = silent, *, detach: bool = False) -> None:
        """Install what is missing, start what does not run, wait until both answer.

        Raises ``LocalStackError`` with the log's last lines when a server does not come up; then, and when it is interrupted,
        whatever this call started is stopped again.
        """
        with self._exclusive(), self._undone_on_failure() as started:
            self._launch_kafka(progress, detach, started)
            self._launch_elasticsearch(progress, detach, started)
            self._await_kafka(progress)
            self._await_elasticsearch(progress)

    def down(self) -> None:
        """Stop both servers and everything they started; data and logs are kept."""
        if not self.state_dir.exists():
            return
        with self._exclusive():
            self._elasticsearch.stop()
            self._kafka.stop()

    def delete_data(self) -> None:
        """Delete the files of a stopped stack; other files in ``state_dir`` stay."""
        for folder in (self._kafka.folder, self._elasticsearch.folder):
            shutil.rmtree(folder, ignore_errors=True)
        self._ports.delete()
        (self.state_dir / "lock").unlink(missing_ok=True)
        with suppress(OSError):  # other files are in it: it stays
            self.state_dir.rmdir()

    def status(self) -> list[ServerStatus]:
        """Each server: where it is, whether it runs, whether it answers."""
        ports = self._ports.read()
        if ports is None:
            return [ServerStatus(server.name, "", None, False, server.log) for server in (self._kafka, self._elasticsearch)]
        return [
            _status(self._kafka, self.kafka_servers, lambda: metadata_brokers(HOST, ports.kafka) > 0),
            _status(self._elasticsearch, self.elasticsearch_url, lambda: cluster_status(HOST, ports.elasticsearch) in USABLE),
        ]

    def start_kafka(self, progress: Progress = silent, *, detach: bool = False) -> None:
        """Start Kafka alone and wait until it answers."""
        with self._exclusive(), self._undone_on_failure() as started:
            self._launch_kafka(progress, detach, started)
            self._await_kafka(progress)

    def start_elasticsearch(self, progress: Progress = silent, *, detach: bool = False) -> None:
        """Start Elasticsearch alone and wait until it answers."""
        with self._exclusive(), self._undone_on_failure() as started:
            self._launch_elasticsearch(progress, detach, started)
            self._await_elasticsearch(progress)

    def stop_kafka(self, *, kill: bool = False) -> None:
        """Stop Kafka alone, by SIGKILL with ``kill``."""
        with self._exclusive():
            self._kafka.stop(kill=kill)

    def stop_elasticsearch(self, *, kill: bool = False) -> None:
        """Stop Elasticsearch alone, by SIGKILL with ``kill``."""
        with self._exclusive():
            self._elasticsearch.stop(kill=kill)

    def restart_kafka(self, *, kill: bool = False) -> None:
        """Stop Kafka and start it again on the same port and data."""
        self.stop_kafka(kill=kill)
        self.start_kafka()

    def restart_elasticsearch(self, *, kill: bool = False) -> None:
        """Stop Elasticsearch and start it again on the same port and data."""
        self.stop_elasticsearch(kill=kill)
        self.start_elasticsearch()

    def _launch_kafka(self, progress: Progress, detach: bool, started: list[ServerProcess]) -> None:
        if self._kafka.running() is not None:
            return
        kafka = self._make_kafka(self._choose_ports(), progress)
        self._claim("Kafka", kafka.port)
        progress("Preparing Kafka")
        kafka.prepare()
        started.append(self._kafka)
        self._kafka.start(kafka.command(), self._owner_of(detach))

    def _launch_elasticsearch(self, progress: Progress, detach: bool, started: list[ServerProcess]) -> None:
        if self._elasticsearch.running() is not None:
            return
        node = self._make_elasticsearch(self._choose_ports(), progress)
        self._claim("Elasticsearch", node.port)
        progress("Preparing Elasticsearch")
        node.prepare()
        started.append(self._elasticsearch)
        self._elasticsearch.start(node.command(), self._owner_of(detach))

    def _await_kafka(self, progress: Progress) -> None:
        port = self._known_ports().kafka
        self._kafka.wait_until(lambda: metadata_brokers(HOST, port) > 0, START_SECONDS, lambda: progress("Waiting for Kafka"))

    def _await_elasticsearch(self, progress: Progress) -> None:
        port = self._known_ports().elasticsearch
        self._elasticsearch.wait_until(
            lambda: cluster_status(HOST, port) in USABLE, START_SECONDS, lambda: progress("Waiting for Elasticsearch")
        )

    def _make_kafka(self, ports: Ports, progress: Progress) -> Kafka:
        return Kafka(
            self._kafka.folder,
            jars.install(progress)["kafka"],
            ports.kafka,
            ports.controller,
            listeners=self._kafka_listeners,
            extra=self._kafka_settings,
        )

    def _make_elasticsearch(self, ports: Ports, progress: Progress) -> Elasticsearch:
        found = jars.install(progress)
        folder = self._elasticsearch.folder
        return Elasticsearch(folder, found["elasticsearch"], found["transport"], ports.elasticsearch, ports.transport)

    def _owner_of(self, detach: bool) -> int | None:
        return None if detach else self._owner or os.getpid()

    def _claim(self, name: str, port: int) -> None:
        if not port_is_free(port):
            raise LocalStackError(
                f"{name} cannot listen on port {port}: another program does.",
                hint="Stop that program, or choose another port (0 takes a free one).",
            )

    def _choose_ports(self) -> Ports:
        return self._ports.choose(
            kafka=self._wanted_kafka_port,
            elasticsearch=self._wanted_elasticsearch_port,
            kafka_ran=self._kafka.folder.exists(),
            elasticsearch_ran=self._elasticsearch.folder.exists(),
        )

    def _known_ports(self) -> Ports:
        ports = self._ports.read()
        if ports is None:
            raise LocalStackError(f"No local stack was ever started in {self.state_dir}.", hint="Run 'tidewatch local up' first.")
        return ports

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        self.state_dir.mkdir(parents=True, exist_ok=True)
        with (self.state_dir / "lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _undone_on_failure(self) -> Iterator[list[ServerProcess]]:
        """Collects the servers that the block starts, and stops them when it fails: half a stack is of no use."""
        started: list[ServerProcess] = []
        try:
            yield started
        except BaseException:
            for server in started:
                server.stop(seconds=5.0)
            raise
