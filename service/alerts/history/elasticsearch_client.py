"""The connection to Elasticsearch: credentials, certificates, and every exception of the client as one of ours.

No ILM, data streams, delete-by-query or ``GET /``: the same code works on every distribution of the server.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
import stamina
from elastic_transport import AiohttpHttpNode
from elastic_transport import ConnectionError as TransportError
from elastic_transport import TransportError as AnyTransportError
from elasticsearch import ApiError, AsyncElasticsearch

from service.errors import ConfigError, StoreUnavailable
from service.settings import ElasticsearchSettings, reveal, without_password

BUSY_SECONDS = 5.0  # how long a search is tried again while the server is busy

Operation = tuple[dict[str, Any], dict[str, Any]]  # of a bulk request: the action, and its document


class RequestTooLarge(StoreUnavailable):
    """The server, or a proxy before it, takes no request of this size (413)."""


class ElasticsearchClient:
    """The calls that the alert history needs. Every method raises ``StoreUnavailable`` or ``ConfigError``."""

    def __init__(self, settings: ElasticsearchSettings) -> None:
        """Raises ``ConfigError`` for an unusable address or secret."""
        self._url = without_password(settings.url)
        self._client = _connect(settings)

    async def check(self) -> str:
        """Reach the server with these credentials; the cluster's name and state in one sentence."""
        try:
            health = await self._client.cluster.health()
        except (ApiError, AnyTransportError) as error:
            raise self._translated(error) from error
        try:
            return f"cluster {health['cluster_name']} is {health['status']}"
        except (KeyError, TypeError) as error:
            raise self._unlike(error) from error

    async def put_template(self, name: str, pattern: str, template: Mapping[str, Any]) -> None:
        """Create or replace an index template."""
        try:
            await self._client.indices.put_index_template(
                name=name, index_patterns=[pattern], template=template, priority=200, meta={"owner": "tidewatch"}
            )
        except (ApiError, AnyTransportError) as error:
            raise self._translated(error) from error

    async def add_alias(self, pattern: str, alias: str) -> None:
        """Give the indices that match ``pattern`` a further alias; nothing happens when there are none."""
        try:
            await self._client.indices.put_alias(index=pattern, name=alias)
        except (ApiError, AnyTransportError) as error:
            if not (isinstance(error, ApiError) and error.status_code == 404):
                raise self._translated(error) from error

    async def bulk(self, operations: Sequence[Operation]) -> list[Mapping[str, Any]]:
        """Send ``index`` operations in one request; the result of each, in order, with an integer ``status``.

        Whatever is answered otherwise is ``StoreUnavailable``: the settings were good when the process began, so they may be
        good again. Raises ``RequestTooLarge`` for a 413.
        """
        try:
            answer = await self._client.bulk(operations=[line for operation in operations for line in operation])
            results = [item["index"] for item in answer["items"]]
            if len(results) != len(operations) or not all(isinstance(result["status"], int) for result in results):
                raise TypeError("not one result for each document")
        except (ApiError, AnyTransportError) as error:
            if isinstance(error, ApiError) and error.status_code == 413:
                raise RequestTooLarge(f"Elasticsearch at {self._url} takes no request of this size (413).") from error
            problem = self._translated(error)
            raise StoreUnavailable(f"{problem} {getattr(problem, 'hint', '')}".rstrip()) from error
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise self._unlike(error) from error
        return results

    async def search(
        self,
        index: str,
        query: Mapping[str, Any],
        *,
        size: int,
        sort: Sequence[Mapping[str, Any]] | None = None,
        after: Sequence[Any] | None = None,
        without: Sequence[str] | None = None,
    ) -> list[dict[str, Any]]:
        """The hits of one search; none when there is no such index. ``without``: fields left out.

        An index that has just been made answers 503 until its shards are there, and a busy server 429: the search is tried again
        for ``BUSY_SECONDS``.
        """
        async for attempt in stamina.retry_context(on=_answered_busy, attempts=None, timeout=BUSY_SECONDS, wait_max=1.0):
            with attempt:
                try:
                    answer = await self._client.search(
                        index=index,
                        query=query,
                        sort=sort,
                        size=size,
                        search_after=after,
                        source_excludes=without,
                        ignore_unavailable=True,  # the alias does not exist before the first document
                    )
                except (ApiError, AnyTransportError) as error:
                    raise self._translated(error) from error
        try:
            hits: list[dict[str, Any]] = answer["hits"]["hits"]
        except (KeyError, TypeError, IndexError) as error:
            raise self._unlike(error) from error
        return hits

    async def refresh(self, indices: Sequence[str]) -> None:
        """Make what was just written visible to searches."""
        try:
            await self._client.indices.refresh(index=indices, ignore_unavailable=True)
        except (ApiError, AnyTransportError) as error:
            raise self._translated(error) from error

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _unlike(self, error: Exception) -> StoreUnavailable:
        return StoreUnavailable(f"What answers at {self._url} does not answer as Elasticsearch does: {type(error).__name__}.")

    def _translated(self, error: Exception) -> StoreUnavailable | ConfigError:
        """The client's exception as one of ours, with what to do next; it names the server, never a secret."""
        if isinstance(error, ApiError) and error.status_code in (401, 403):
            return ConfigError(
                f"Elasticsearch at {self._url} refuses these credentials ({error.status_code}).",
                hint="Check elasticsearch.api_key, or username and password, and that they may write the indices.",
            )
        if isinstance(error, ApiError) and error.status_code not in (408, 429) and error.status_code < 500:
            why = str(error.message)[:200]  # a proxy's whole page may stand there
            return ConfigError(
                f"Elasticsearch at {self._url} refuses the request: {why}.",
                hint="Is this Elasticsearch 8 or later?",
            )
        cause = error.__cause__
        if isinstance(cause, aiohttp.ClientConnectorCertificateError):
            why = getattr(cause.certificate_error, "verify_message", str(cause.certificate_error))
            return ConfigError(
                f"The certificate of Elasticsearch at {self._url} is not trusted: {why.rstrip('.')}.",
                hint="Set elasticsearch.ca_file to the authority that signed it, and name the host in url as the certificate does.",
            )
        if isinstance(cause, _Redirected):
            return ConfigError(
                f"Elasticsearch at {self._url} sends us to another address; redirects are not followed.",
                hint="Set elasticsearch.url to the address where the server itself answers.",
            )
        if isinstance(error, TransportError):
            return StoreUnavailable(f"Elasticsearch at {self._url} does not answer.")
        return StoreUnavailable(f"Elasticsearch at {self._url} cannot take the request now: {type(error).__name__}.")


def _answered_busy(error: Exception) -> bool:
    """The server answered, and may have more to say in a moment; one that does not answer at all is reported at once."""
    return isinstance(error, StoreUnavailable) and isinstance(error.__cause__, ApiError)


class _Redirected(Exception):  # noqa: N818 - never leaves this file
    """The server sent us elsewhere."""


async def _refuse_redirect(*_: Any) -> None:
    raise _Redirected


class _Node(AiohttpHttpNode):
    """A server that sends us to another address gets nothing there, neither documents nor credentials; and what went wrong
    with a connection stays known as the exception's cause."""

    def _create_aiohttp_session(self) -> None:
        super()._create_aiohttp_session()
        assert self.session is not None
        watch = aiohttp.TraceConfig()
        watch.on_request_redirect.append(_refuse_redirect)
        watch.freeze()
        self.session.trace_configs.append(watch)

    async def perform_request(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]  # whatever it takes is passed on
        try:
            return await super().perform_request(*args, **kwargs)
        except AnyTransportError as error:  # the transport empties ``errors`` on its way
            raise error from (error.errors[0] if error.errors else None)


def _connect(settings: ElasticsearchSettings) -> AsyncElasticsearch:
    """A client for these settings. Certificates and host names are verified, redirects are not followed.

    Raises ``ConfigError`` for unusable secrets.
    """
    options: dict[str, Any] = {"request_timeout": settings.request_timeout_seconds, "max_retries": 0, "retry_on_timeout": False}
    options["node_class"] = _Node
    api_key = reveal(settings.api_key, settings.api_key_file)
    password = reveal(settings.password, settings.password_file)
    if api_key is not None:
        options["api_key"] = api_key
    elif settings.username is not None:
        options["basic_auth"] = (settings.username, password or "")
    if settings.ca_file is not None:
        try:
            options["ssl_context"] = ssl.create_default_context(cafile=str(settings.ca_file))
        except OSError as error:
            raise ConfigError(
                f"elasticsearch.ca_file {settings.ca_file} cannot be used: {error}.",
                hint="Give the PEM file of the certificate authority.",
            ) from error
    try:
        return AsyncElasticsearch(settings.url, **options)
    except ValueError as error:
        raise ConfigError(f"elasticsearch.url is not usable: {error}.", hint="Write it like https://host:9200.") from error
