"""Liveness, readiness and metrics over HTTP: ``/healthz``, ``/readyz``, ``/metrics``."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
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
        return self.alive() and bool(self._parts) and self.tasks_work() and all(part.ready for part in self._parts.values())

    def tasks_work(self) -> bool:
        """True while no background task is failing."""
        return not self._failing

    def stuck(self, after: float) -> list[str]:
        """The parts that have not beaten for ``after`` seconds. Called from another thread."""
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
