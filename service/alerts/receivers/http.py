"""HTTP for the notifiers: one attempt, TLS verified, no redirects, and no address or secret in any error or log."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from pydantic import SecretStr

from service.errors import ConfigError, DeliveryFailed, DeliveryRefused
from service.settings import reveal

ANSWER_LENGTH = 120
SECRET_LENGTH = 5  # shorter pieces of a URL are no secrets, and redacting them would garble an answer


class SecretURL(httpx.URL):
    """A URL that prints without its path and query, which for an incoming webhook are the secret.

    httpx logs the URL of every request. To silence its logger would change the logging of the process that uses the library.
    """

    def __str__(self) -> str:
        return f"{self.scheme}://{self.netloc.decode()}/***"

    def __repr__(self) -> str:
        return f"SecretURL({str(self)!r})"


class Post:
    """Posts to one secret URL on behalf of the receiver ``name``. Raises ``ConfigError`` for a URL that must not be used."""

    def __init__(
        self,
        name: str,
        url: SecretStr | None,
        url_file: Path | None,
        *,
        allow_http: bool,
        timeout: float,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        revealed = reveal(url, url_file)
        if not revealed:
            raise ConfigError(f"The receiver {name!r} has no url.", hint="Set its url, or url_file for a file that holds it.")
        parts = urlsplit(revealed)
        allowed = ("https", "http") if allow_http else ("https",)
        if parts.scheme not in allowed or not parts.hostname:
            raise ConfigError(
                f"The receiver {name!r} needs an https URL with a host.", hint="Set allow_http for it only on a network you trust."
            )
        self._name = name
        self._url = revealed
        self._host = parts.hostname
        # A server may repeat parts of the URL in its answer. Longest first, so that no rest of one stays.
        pieces = {piece for piece in re.split(r"[/?&=]", f"{parts.path}?{parts.query}") if len(piece) >= SECRET_LENGTH}
        self._secrets = sorted(pieces, key=len, reverse=True)
        self._client = httpx.AsyncClient(timeout=timeout, follow_redirects=False, transport=transport)

    async def send(self, body: bytes, headers: Mapping[str, str]) -> None:
        """One attempt. 2xx is delivered; 408, 425, 429 and 5xx raise ``DeliveryFailed``; everything else ``DeliveryRefused``."""
        try:
            request = self._client.build_request("POST", self._url, content=body, headers=dict(headers))
            request.url = SecretURL(request.url)
            response = await self._client.send(request)
        except httpx.InvalidURL:
            raise DeliveryRefused(f"{self._name}: its URL is not usable.") from None
        except httpx.HTTPError as error:  # from None: the chained request would carry the URL into a traceback
            raise DeliveryFailed(f"{self._name}: {self._host} did not answer ({type(error).__name__}).") from None
        status = response.status_code
        if 200 <= status < 300:
            return
        if status in (408, 425, 429) or status >= 500:
            raise DeliveryFailed(f"{self._name}: {self._host} answered {status}.", retry_after=retry_after(response.headers))
        if 300 <= status < 400:
            raise DeliveryRefused(f"{self._name}: {self._host} answered {status}; redirects are not followed.")
        answer = self._without_secrets(" ".join(response.text.split()))[:ANSWER_LENGTH]
        raise DeliveryRefused(f"{self._name}: {self._host} answered {status}{': ' + answer if answer else ''}.")

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "…")
        return text


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds named by a ``Retry-After`` header (a number or a date), or ``None``."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - (now or datetime.now(UTC))).total_seconds())
    except (ValueError, TypeError):
        return None
