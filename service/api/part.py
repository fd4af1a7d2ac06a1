"""The API as a part: ``runtime.run_parts`` starts, runs and stops it."""

from __future__ import annotations

import asyncio

from service.api.routes import PREFIX, make_app
from service.app import build_history, build_people
from service.clock import SystemClock
from service.errors import ConfigError
from service.observability.health import HealthServer
from service.observability.logging import get_logger
from service.settings import Settings, reveal

log = get_logger("api")


class ApiPart:
    """Serves until asked to stop."""

    name = "api"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._history = build_history(settings)
        self._people = build_people(settings, self._history)
        self._server: HealthServer | None = None
        self._stop = asyncio.Event()

    @property
    def port(self) -> int:
        """The port in use, once started."""
        assert self._server is not None
        return self._server.port

    async def start(self) -> None:
        """Bind, hear what people said so far, serve. Raises ``ConfigError`` or ``BrokerUnavailable``."""
        api = self._settings.api
        token = reveal(api.token, api.token_file) or None
        app = make_app(self._history, self._people, token=token, clock=SystemClock())
        try:
            self._server = HealthServer(app, api.host, api.port)
        except OSError as error:
            raise ConfigError(
                f"The API cannot be served on {api.host}:{api.port}: {error.strerror}.",
                hint="Set api.port to a free port (0 picks one).",
            ) from error
        await self._people.start()
        await self._server.start()
        if token is None:
            log.warning("no api.token is set: the API can be read by all who reach it, and written by nobody")
        log.info("the API is served", url=f"http://{api.host}:{self.port}{PREFIX}/openapi.json")

    async def run(self) -> None:
        """Serve until asked to stop."""
        await self._stop.wait()

    def request_stop(self) -> None:
        """End ``run``."""
        self._stop.set()

    async def close(self) -> None:
        """Stop serving and disconnect."""
        if self._server is not None:
            await self._server.close()
        await self._people.close()
        await self._history.close()
