"""The dead man's switch: a webhook called while all is well, so that its silence tells people that Tidewatch itself has stopped.

Whoever receives it (Alertmanager's watchdog receivers, a cron monitor, a second Tidewatch) must raise the alarm when it stays away.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping

import msgspec

from service.alerts.receivers.http import Post
from service.errors import DeliveryFailed, DeliveryRefused
from service.observability.logging import get_logger
from service.settings import HeartbeatSettings

log = get_logger("heartbeat")

NAME = "notifications.heartbeat"


class HeartbeatPart:
    """Posts every ``interval_seconds`` while ``is_well()``. One attempt each: the next beat is the retry.

    ``describe()``: what each part last said of itself; its details are not sent.
    """

    name = "heartbeat"

    def __init__(
        self,
        settings: HeartbeatSettings,
        *,
        is_well: Callable[[], bool],
        describe: Callable[[], Mapping[str, Mapping[str, object]]],
    ) -> None:
        self._seconds = settings.interval_seconds
        self._is_well = is_well
        self._describe = describe
        self._post = Post(
            NAME, settings.url, settings.url_file, allow_http=settings.allow_http, timeout=min(10.0, settings.interval_seconds)
        )
        self._stop = asyncio.Event()
        self._told = True

    async def start(self) -> None:
        """Nothing to connect: a receiver that is away must not keep Tidewatch from starting."""

    async def run(self) -> None:
        """Beat until asked to stop."""
        while not self._stop.is_set():
            if self._is_well():
                await self._beat()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), self._seconds)

    def request_stop(self) -> None:
        """No more beats."""
        self._stop.set()

    async def close(self) -> None:
        """Close the connections."""
        await self._post.close()

    async def _beat(self) -> None:
        body = msgspec.json.encode({"status": "ok", "parts": sorted(self._describe())})
        try:
            await self._post.send(body, {"content-type": "application/json"})
        except (DeliveryFailed, DeliveryRefused) as error:
            if self._told:  # once, not at every beat
                log.warning("the heartbeat is not taken", why=str(error))
            self._told = False
            return
        if not self._told:
            log.info("the heartbeat is taken again")
        self._told = True
