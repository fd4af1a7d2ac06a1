"""Liveness, readiness and metrics over HTTP: ``/healthz``, ``/readyz``, ``/metrics``."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator, Mapping

import msgspec
import uvicorn
from fastapi import FastAPI, Response

from service.clock import Clock
from service.observability.metrics import Metrics


class PartHealth(msgspec.Struct):
    """What one part last reported. ``beat`` is monotonic seconds; a part that stops beating is stuck."""

    ready: bool = False
    beat: float = 0.0
    detail: str = "starting"


class Health:
    """Where parts report that they live and work.

    A part is alive while it beats at least every ``stale_after`` seconds. It is ready when its last beat said so and none of its
    background tasks is failing.
    """

    def __init__(self, clock: Clock, *, stale_after: float = 60.0) -> None:
        self._clock = clock
        self._stale_after = stale_after
        self._parts: dict[str, PartHealth] = {}
        self._failing: dict[str, dict[str, str]] = {}

    def beat(self, part: str, *, ready: bool, detail: str = "") -> None:
        """Report that ``part`` lives, and whether it can do its work."""
        self._parts[part] = PartHealth(ready=ready, beat=self._clock.monotonic(), detail=detail)

    def failing(self, part: str, task: str, cause: str) -> None:
        """Report that a background task of ``part`` ended by itself; ``part`` is not ready until ``recovered``."""
        self._failing.setdefault(part, {})[task] = cause

    def recovered(self, part: str, task: str) -> None:
        """Report that ``task`` works again (nothing happens if it never failed)."""
        tasks = self._failing.get(part, {})
        tasks.pop(task, None)
        if not tasks:
            self._failing.pop(part, None)

    def alive(self) -> bool:
        """True while every part has beaten lately."""
        now = self._clock.monotonic()
        return all(now - part.beat <= self._stale_after for part in self._parts.values())

    def ready(self) -> bool:
        """True when there are parts, every one can do its work, and no background task is failing."""
        return self.alive() and bool(self._parts) and not self._failing and all(part.ready for part in self._parts.values())

    def stuck(self, after: float) -> list[str]:
        """The parts that have not beaten for ``after`` seconds."""
        now = self._clock.monotonic()
        return [name for name, part in list(self._parts.items()) if now - part.beat > after]

    def describe(self) -> Mapping[str, Mapping[str, object]]:
        """What each part last reported and how long ago that was, and which of its background tasks fail and why."""
        now = self._clock.monotonic()
        described: dict[str, dict[str, object]] = {
            name: {"ready": part.ready, "seconds_since_beat": round(now - part.beat, 1), "detail": part.detail}
            for name, part in self._parts.items()
        }
        for name, tasks in self._failing.items():
            causes = "; ".join(f"the task {task!r} failed and is started again: {cause}" for task, cause in tasks.items())
            described.setdefault(name, {}).update(ready=False, detail=causes)
        return described


def health_app(health: Health, metrics: Metrics) -> FastAPI:
    """The three routes as an ASGI application."""
    app = FastAPI(title="Tidewatch health", docs_url=None, redoc_url=None, openapi_url=None)

    def answer(good: bool) -> Response:
        body = msgspec.json.encode({"status": "ok" if good else "unavailable", "parts": health.describe()})
        return Response(body, status_code=200 if good else 503, media_type="application/json")

    @app.get("/healthz")
    async def healthz() -> Response:
        return answer(health.alive())

    @app.get("/readyz")
    async def readyz() -> Response:
        return answer(health.ready())

    @app.get("/metrics")
    async def expose() -> Response:
        return Response(metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


class _Server(uvicorn.Server):
    """A server that leaves signals to the application (SIGTERM means: drain, then stop) and says when it accepts connections."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.accepting = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.accepting.set()


class HealthServer:
    """Serves an ASGI application in the running event loop."""

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        """Bind at once: raises ``OSError`` when the port is taken, so that it is said before anything is consumed."""
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((host, port))
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=2)
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port in use (of interest when 0 was asked for)."""
        return int(self._socket.getsockname()[1])

    async def start(self) -> None:
        """Begin serving; returns once connections are accepted."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]), name="health")
        await self._server.accepting.wait()

    async def close(self) -> None:
        """Stop serving."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task
        self._socket.close()
