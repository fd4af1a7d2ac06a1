"""Runs one Elasticsearch node inside this Python process: ``python elasticsearch_node.py HOME LIBJVM HEAP_MB``.

The launcher of Elasticsearch is only in its distribution, its classes are published as jars. So JPype loads the JVM here and
calls the constructors that the launcher calls. HOME holds ``lib/``, ``modules/``,
``config/elasticsearch.yml``, ``data/`` and ``logs/``.
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

import jpype


def main(home: Path, libjvm: str, heap_mb: int) -> None:
    """Start the node; close it on SIGTERM or SIGINT."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    jpype.startJVM(
        libjvm,
        f"-Xmx{heap_mb}m",
        f"-Xms{heap_mb // 2}m",
        "-Xrs",  # Python handles the signals, so that the node is closed before the process ends
        "-XX:+UseSerialGC",
        f"-Des.path.home={home}",
        f"-Djava.io.tmpdir={home / 'tmp'}",
        f"-Dlog4j2.configurationFile={home / 'config' / 'log4j2.properties'}",
        "-Dlog4j2.disable.jmx=true",
        "-Dlog4j2.formatMsgNoLookups=true",
        "-Dio.netty.noUnsafe=true",
        "-Dio.netty.noKeySetOptimization=true",
        "-Dio.netty.recycler.maxCapacityPerThread=0",
        "-Dorg.elasticsearch.nativeaccess.enableVectorLibrary=false",  # its native library is in the distribution only
        "--enable-native-access=ALL-UNNAMED",
        classpath=[str(jar) for jar in sorted((home / "lib").glob("*.jar"))],
        convertStrings=True,
    )
    node = _start(home)
    print("node started", flush=True)  # noqa: T201 - standard output is the server's log
    stop.wait()
    node.close()
    jpype.shutdownJVM()


def _start(home: Path):  # type: ignore[no-untyped-def]  # a Java object has no Python type
    java = jpype.JClass
    java("org.elasticsearch.common.logging.LogConfigurator").configureESLogging()
    builder = java("org.elasticsearch.common.settings.Settings").builder()
    builder.put("path.home", str(home))
    builder.loadFromPath(java("java.nio.file.Path").of(str(home / "config" / "elasticsearch.yml")))
    environment = java("org.elasticsearch.env.Environment")(builder.build(), java("java.nio.file.Path").of(str(home / "config")))
    loader = java("org.elasticsearch.plugins.PluginsLoader")
    modules = loader.loadModulesBundles(environment.modulesDir())
    plugins = loader.createPluginsLoader(modules, java("java.util.Set").of(), java("java.util.Map").of(), False)
    node = java("org.elasticsearch.node.Node")(environment, plugins)
    return node.start()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
