"""Errors as problem details (RFC 9457): a status, its title, and a sentence that says what is wrong."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from service.errors import CommandRefused, NotFound, Retry, Stop, TidewatchError
from service.observability.logging import get_logger

log = get_logger("api")

MEDIA_TYPE = "application/problem+json"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
}


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """The response for an error."""
    title = HTTPStatus(status).phrase
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return JSONResponse(body, status_code=status, headers=headers, media_type=MEDIA_TYPE)


def described(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What the OpenAPI description of a route says of these statuses."""
    return {status: {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {"schema": SCHEMA}}} for status in statuses}


def install(app: FastAPI) -> None:
    """Make ``app`` answer every error as a problem."""
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(TidewatchError, _of_ours)


async def _of_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:  # the router names only the first of a path's routes
        headers["Allow"] = ", ".join(_methods(request.app, request.url.path))
    return problem(error.status_code, str(error.detail), headers)


def _methods(app: FastAPI, path: str) -> list[str]:
    """The methods of a path, from the API's own description."""
    found = [
        methods for template, methods in app.openapi()["paths"].items() if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path)
    ]
    return sorted({method.upper() for methods in found for method in methods})


async def _of_validation(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    wrong = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg'].removeprefix('Value error, ')}" for each in error.errors())
    return problem(422, wrong)


async def _of_ours(_: Request, error: Exception) -> JSONResponse:
    if isinstance(error, NotFound):
        return problem(404, str(error))
    if isinstance(error, CommandRefused):
        return problem(422, str(error))
    if isinstance(error, Retry):
        return problem(503, str(error), {"Retry-After": "5"})
    log.error("a request could not be served", why=str(error), hint=error.hint if isinstance(error, Stop) else "")
    return problem(502, str(error))
