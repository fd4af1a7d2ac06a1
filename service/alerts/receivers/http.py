"""HTTP for the notifiers: one attempt, TLS verified, no redirects, and no address or secret in any error or log."""

from __future__ import annotations

import logging
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

WORDS_KEPT = 120
SECRET_LENGTH = 5


def _drop(_record: logging.LogRecord) -> bool:
    return False


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
        # httpx logs every request's whole URL, which for an incoming webhook is the secret itself.
        logging.getLogger("httpx").addFilter(_drop)
        self._name = name
        self._url = revealed
        self._host = parts.hostname
        # a webhook's secret is a part of its path or query; longest first, so that no rest of one stays
        pieces = {piece for piece in re.split(r"[/?&=]", f"{parts.path}?{parts.query}") if len(piece) >= SECRET_LENGTH}
        self._secrets = sorted(pieces, key=len, reverse=True)
        self._client = httpx.AsyncClient(timeout=timeout, follow_redirects=False, transport=transport)

    async def send(self, body: bytes, headers: Mapping[str, str]) -> None:
        """One attempt. 2xx is delivered; 408, 425, 429 and 5xx raise ``DeliveryFailed``; everything else ``DeliveryRefused``."""
        try:
            response = await self._client.post(self._url, content=body, headers=dict(headers))
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
        said = self._without_secrets(" ".join(response.text.split()))[:WORDS_KEPT]
        raise DeliveryRefused(f"{self._name}: {self._host} answered {status}{': ' + said if said else ''}.")

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "…")
        return text


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds named by a ``Retry-After`` header (a number or a date), or ``None``."""
    told = headers.get("retry-after")
    if told is None:
        return None
    try:
        return max(0.0, float(told))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(told) - (now or datetime.now(UTC))).total_seconds())
    except (ValueError, TypeError):
        return None
