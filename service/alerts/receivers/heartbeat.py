"""The dead man's switch: a webhook that is called while Tidewatch is ready, so that its absence shows that Tidewatch has stopped.

The receiver (a cron monitor, Alertmanager's watchdog receivers, a second Tidewatch) must raise the alarm when the calls stop.
"""

from __future__ import annotations

import asyncio

import msgspec

from service.alerts.receivers.http import Post
from service.clock import Clock
from service.errors import DeliveryFailed, DeliveryRefused
from service.observability.health import Health
from service.observability.logging import get_logger
from service.observability.tasks import BackgroundTasks
from service.settings import HeartbeatSettings

log = get_logger("heartbeat")

NAME = "notifications.heartbeat"


class HeartbeatPart:
    """Posts every ``interval_seconds`` while every part is ready. One attempt each: the next call is the retry.

    The body names the parts; their details are not sent.
    """

    name = "heartbeat"

    def __init__(self, settings: HeartbeatSettings, *, health: Health, clock: Clock) -> None:
        """Raises ``ConfigError`` for a URL that must not be used."""
        self._seconds = settings.interval_seconds
        self._health = health
        self._clock = clock
        self._tasks = BackgroundTasks(self.name, health, clock)
        self._post = Post(
            NAME, settings.url, settings.url_file, allow_http=settings.allow_http, timeout=min(10.0, settings.interval_seconds)
        )
        self._stop = asyncio.Event()
        self._accepted = True

    async def start(self) -> None:
        """Begin to post. Nothing is connected: a receiver that is away must not keep Tidewatch from starting."""
        self._tasks.start("heartbeat posts", self._follow)

    async def run(self) -> None:
        """Post until asked to stop."""
        await self._stop.wait()

    def request_stop(self) -> None:
        """End ``run``."""
        self._stop.set()

    async def close(self) -> None:
        """Stop posting, close the connections."""
        try:
            await self._tasks.close()
        finally:
            await self._post.close()

    async def _follow(self) -> None:
        while True:
            if self._health.ready():
                await self._beat()
            await self._clock.sleep(self._seconds)

    async def _beat(self) -> None:
        body = msgspec.json.encode({"status": "ok", "parts": sorted(self._health.describe())})
        try:
            await self._post.send(body, {"content-type": "application/json"})
        except (DeliveryFailed, DeliveryRefused) as error:
            if self._accepted:  # once, not at every post
                log.warning("the heartbeat is not accepted", why=str(error))
            self._accepted = False
            return
        if not self._accepted:
            log.info("the heartbeat is accepted again")
        self._accepted = True
