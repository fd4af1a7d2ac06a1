"""The HTTP part over real sockets: health is served, a port in use is reported, a server that ends is started again."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from service.clock import ManualClock
from service.errors import ConfigError
from service.observability.health import Health, health_app
from service.observability.http_part import HttpPart
from service.observability.metrics import Metrics


def http_part(health: Health, port: int = 0, metrics: Metrics | None = None) -> HttpPart:
    app = health_app(health, metrics or Metrics())
    return HttpPart("health", app, "127.0.0.1", port, setting="http.port", health=health, clock=ManualClock())


async def test_health_readiness_and_metrics_are_served() -> None:
    clock = ManualClock()
    health, metrics = Health(clock, stale_after=30), Metrics()
    part = http_part(health, metrics=metrics)
    await part.start()
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{part.port}") as client:
            assert (await client.get("/healthz")).status_code == 200
            assert (await client.get("/readyz")).status_code == 503, "nothing is ready before a part said so"

            health.beat("scoring", ready=False, detail="connecting")
            assert (await client.get("/readyz")).status_code == 503
            health.beat("scoring", ready=True)
            assert (await client.get("/readyz")).status_code == 200

            health.failing("scoring", "reporter", "RuntimeError: no such column")
            red = await client.get("/readyz")
            assert red.status_code == 503
            assert red.json()["parts"]["scoring"]["ready"] is False
            assert (
                "'reporter' failed and is started again: RuntimeError: no such column" in red.json()["parts"]["scoring"]["detail"]
            )
            assert (await client.get("/healthz")).status_code == 200, "it lives: nothing is gained by killing it"
            health.recovered("scoring", "reporter")
            assert (await client.get("/readyz")).status_code == 200

            clock.advance(31)
            stuck = await client.get("/healthz")
            assert stuck.status_code == 503
            assert stuck.json()["parts"]["scoring"]["seconds_since_beat"] == 31

            metrics.consumed.inc(3)
            assert "tidewatch_records_consumed_total 3.0" in (await client.get("/metrics")).text
    finally:
        await part.close()


async def test_a_port_in_use_is_reported_at_once_and_with_its_setting() -> None:
    first = http_part(Health(ManualClock()))
    await first.start()
    try:
        with pytest.raises(ConfigError, match="in use") as caught:
            http_part(Health(ManualClock()), first.port).bind()
        assert "http.port" in caught.value.hint
    finally:
        await first.close()


async def test_it_runs_until_it_is_stopped_and_frees_its_port() -> None:
    part = http_part(Health(ManualClock()))
    await part.start()
    running = asyncio.create_task(part.run())
    await asyncio.sleep(0)
    assert not running.done()
    part.request_stop()
    await running
    await part.close()
    again = http_part(Health(ManualClock()), part.port)
    again.bind()
    await again.close()


class RecordingHealth(Health):
    """Keeps whether it was ready right after each reported failure."""

    def failing(self, part: str, task: str, cause: str) -> None:
        super().failing(part, task, cause)
        self.failures = [*getattr(self, "failures", []), (part, task, cause, self.ready())]


async def test_a_server_that_is_killed_turns_readiness_red_and_serves_again_on_its_port() -> None:
    health = RecordingHealth(ManualClock())
    health.beat("scoring", ready=True)
    part = http_part(health)
    await part.start()
    try:
        [server] = [task for task in asyncio.all_tasks() if task.get_name() == "server"]
        server.cancel()
        async with asyncio.timeout(20), httpx.AsyncClient(base_url=f"http://127.0.0.1:{part.port}") as client:
            while not hasattr(health, "failures") or not health.ready():
                await asyncio.sleep(0.01)
            assert (await client.get("/readyz")).status_code == 200
    finally:
        await part.close()
    assert health.failures == [("health", "server", "CancelledError: cancelled from outside", False)]
