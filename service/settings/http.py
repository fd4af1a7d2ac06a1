"""What is served over HTTP: health, metrics and the REST API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr

from service.settings.base import Section


class HttpSettings(Section):
    """Where health and metrics are served; by default on the loopback only. Port 0 picks a free one."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, lt=65536)] = 8080


class ApiSettings(Section):
    """Where `tidewatch api` serves, and the token that callers must send. Without a token the API is read-only."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, lt=65536)] = 8081
    token: SecretStr | None = None
    token_file: Path | None = None
