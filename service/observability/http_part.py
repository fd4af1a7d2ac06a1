"""HTTP as a part, for health and for the API: one ASGI application, bound at the start and served until it is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from service.clock import Clock
from service.errors import ConfigError
from service.observability.health import Health
from service.observability.logging import get_logger
from service.observability.tasks import BackgroundTasks

log = get_logger("http")

SHUTDOWN_SECONDS = 2  # for requests under way


class HttpPart:
    """Serves ``app`` on ``host``:``port``. A server that ends by itself is started again on the same port."""

    def __init__(self, name: str, app: FastAPI, host: str, port: int, *, setting: str, health: Health, clock: Clock) -> None:
        """``setting``: the one that holds ``port``, for the hint of an error. Port 0 picks a free one, see ``port``."""
        self.name = name
        self._setting = setting
        self._app = app
        self._host = host
        self._port = port
        self._tasks = BackgroundTasks(name, health, clock)
        self._socket: socket.socket | None = None
        self._server: _Server | None = None
        self._accepting = asyncio.Event()
        self._stop = asyncio.Event()

    @property
    def port(self) -> int:
        """The port in use, once bound."""
        return self._port

    def bind(self) -> None:
        """Take the address, so that a port in use is reported before anything else starts; ``start`` does it where it was not
        done. Raises ``ConfigError``."""
        try:
            self._socket = _bound(self._host, self._port)
        except OSError as error:
            raise ConfigError(
                f"The {self.name} server cannot use {self._host}:{self._port}: {error.strerror}.",
                hint=f"Set {self._setting} to a free port (0 picks one).",
            ) from error
        self._port = int(self._socket.getsockname()[1])

    async def start(self) -> None:
        """Serve; returns once connections are accepted. Raises ``ConfigError`` when the address cannot be used."""
        if self._socket is None:
            self.bind()
        self._tasks.start("server", self._serve)
        await self._accepting.wait()
        log.info("serving", part=self.name, url=f"http://{self._host}:{self._port}")

    async def run(self) -> None:
        """Serve until asked to stop."""
        await self._stop.wait()

    def request_stop(self) -> None:
        """End ``run``; requests are answered until ``close``."""
        self._stop.set()

    async def close(self) -> None:
        """Answer the requests under way, then stop serving."""
        if self._server is not None:
            self._server.should_exit = True
        await self._tasks.close(drain=SHUTDOWN_SECONDS + 1)
        if self._socket is not None:
            self._socket.close()

    async def _serve(self) -> None:
        bound, self._socket = self._socket or _bound(self._host, self._port), None
        config = uvicorn.Config(
            self._app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=SHUTDOWN_SECONDS
        )
        self._server = _Server(config, self._accepting)
        try:
            await self._server.serve(sockets=[bound])
        finally:
            for listening in getattr(self._server, "servers", []):  # none before it has started
                listening.close()
            bound.close()


class _Server(uvicorn.Server):
    """A server that leaves signals to the application (SIGTERM means: drain, then stop) and reports that it accepts connections."""

    def __init__(self, config: uvicorn.Config, accepting: asyncio.Event) -> None:
        super().__init__(config)
        self._accepting = accepting

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._accepting.set()


def _bound(host: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
    except BaseException:
        made.close()
        raise
    return made
