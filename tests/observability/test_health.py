"""Health over real HTTP: a part that stops beating, or is not ready, shows."""

from __future__ import annotations

import httpx
import pytest

from service.clock import ManualClock
from service.observability.health import Health, HealthServer, health_app
from service.observability.metrics import Metrics


async def test_health_readiness_and_metrics_are_served() -> None:
    clock = ManualClock()
    health = Health(clock, stale_after=30)
    metrics = Metrics()
    server = HealthServer(health_app(health, metrics), "127.0.0.1", 0)
    await server.start()
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client:
            assert (await client.get("/healthz")).status_code == 200
            assert (await client.get("/readyz")).status_code == 503, "nothing is ready before a part said so"

            health.beat("scoring", ready=False, detail="connecting")
            assert (await client.get("/readyz")).status_code == 503
            health.beat("scoring", ready=True)
            assert (await client.get("/readyz")).status_code == 200

            clock.advance(31)
            stuck = await client.get("/healthz")
            assert stuck.status_code == 503
            assert stuck.json()["parts"]["scoring"]["seconds_since_beat"] == 31

            metrics.consumed.inc(3)
            assert "tidewatch_records_consumed_total 3.0" in (await client.get("/metrics")).text
    finally:
        await server.close()


async def test_a_taken_port_is_said_at_once() -> None:
    first = HealthServer(health_app(Health(ManualClock()), Metrics()), "127.0.0.1", 0)
    await first.start()
    try:
        with pytest.raises(OSError, match="in use"):
            HealthServer(health_app(Health(ManualClock()), Metrics()), "127.0.0.1", first.port)
    finally:
        await first.close()
