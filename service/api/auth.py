"""Checks the bearer token and the size of a request before its body is read."""

from __future__ import annotations

import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.problems import problem

LARGEST_BODY = 65_536
READING = frozenset({"GET", "HEAD", "OPTIONS"})


class TokenRequired:
    """ASGI middleware: every path but ``open_paths`` needs the token, whether or not there is such a route. Where no token is
    set, reading is open and everything else is refused."""

    def __init__(self, app: ASGIApp, *, token: str | None, open_paths: frozenset[str]) -> None:
        self._app = app
        self._token = token
        self._open = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a refused request; pass every other one on."""
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        refused = self._refused(scope["method"], scope["path"], headers) or _too_large(headers)
        if refused is None:
            await self._app(scope, receive, send)
            return
        status, why = refused
        await problem(status, why, {"WWW-Authenticate": "Bearer"} if status == 401 else None)(scope, receive, send)

    def _refused(self, method: str, path: str, headers: Headers) -> tuple[int, str] | None:
        reading = method in READING
        if path in self._open and reading:
            return None
        if self._token is None:
            return (
                None
                if reading
                else (403, "Nothing can be written, because no api.token is set. Set one and send it as a bearer token.")
            )
        scheme, _, given = headers.get("authorization", "").partition(" ")
        good = hmac.compare_digest(given.strip().encode(), self._token.encode())
        return (
            None
            if good and scheme.lower() == "bearer"
            else (401, "The token is missing or wrong. Send the header: Authorization: Bearer TOKEN")
        )


def _too_large(headers: Headers) -> tuple[int, str] | None:
    if "transfer-encoding" in headers:
        return 411, "The length of the body is not known. Send it with a Content-Length."
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > LARGEST_BODY:
        return 413, f"The body is too large. Send at most {LARGEST_BODY} bytes."
    return None
