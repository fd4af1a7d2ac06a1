"""The API as a part: the HTTP server, the alert history it reads and the operators' commands it writes."""

from __future__ import annotations

from service.api.routes import PREFIX, make_app
from service.app import build_history, build_operators
from service.clock import SystemClock
from service.observability.health import Health
from service.observability.http_part import HttpPart
from service.observability.logging import get_logger
from service.runtime import close_all
from service.settings import Settings, reveal

log = get_logger("api")


class ApiPart:
    """Serves until asked to stop."""

    name = "api"

    def __init__(self, settings: Settings) -> None:
        api, clock = settings.api, SystemClock()
        health = Health(clock)
        self._history = build_history(settings)
        self._operators = build_operators(settings, self._history, health)
        self._token = reveal(api.token, api.token_file) or None
        app = make_app(self._history, self._operators, token=self._token, health=health, clock=clock)
        self._http = HttpPart(self.name, app, api.host, api.port, setting="api.port", health=health, clock=clock)

    @property
    def port(self) -> int:
        """The port in use, once started."""
        return self._http.port

    async def start(self) -> None:
        """Bind, read the commands given so far, serve. Raises ``ConfigError`` or ``BrokerUnavailable``."""
        self._http.bind()
        await self._operators.start()
        await self._http.start()
        if self._token is None:
            log.warning("no api.token is set: the API can be read by all who reach it, and written by nobody")
        log.info("the API is described", path=f"{PREFIX}/openapi.json")

    async def run(self) -> None:
        """Serve until asked to stop."""
        await self._http.run()

    def request_stop(self) -> None:
        """End ``run``."""
        self._http.request_stop()

    async def close(self) -> None:
        """Stop serving and disconnect."""
        await close_all(self._http.close, self._operators.close, self._history.close)
