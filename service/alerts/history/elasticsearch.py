"""The alert history in Elasticsearch: monthly indices by the alert's start, external versions, core features only.

No ILM, data streams, delete-by-query or ``GET /``: the same code works on every distribution of the server.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import aiohttp
import stamina
from elastic_transport import AiohttpHttpNode
from elastic_transport import ConnectionError as TransportError
from elastic_transport import TransportError as AnyTransportError
from elasticsearch import ApiError, AsyncElasticsearch

from service.alerts.control.commands import Command
from service.alerts.control.mutes import MuteReason
from service.alerts.history.alert_documents import MAPPINGS, document, event_document, event_id
from service.alerts.history.command_documents import WORD_MAPPINGS, word_document, word_id
from service.alerts.history.delivery_documents import DELIVERY_MAPPINGS, delivery_document, version
from service.alerts.times import month
from service.alerts.topics.deliveries import Delivery
from service.domain import Alert
from service.errors import ConfigError, StoreUnavailable
from service.observability.logging import get_logger
from service.settings import ElasticsearchSettings, reveal

log = get_logger("store")

Refused = Callable[[Mapping[str, Any], str], None]
BULK_DOCUMENTS = 500
BUSY_SECONDS = 5.0
BULK_DELIVERIES = 20  # one of them may name fifty thousand alerts


def log_refused(document: Mapping[str, Any], reason: str) -> None:
    """Default ending of a document the server will never take: one error line with its id."""
    log.error("document refused for good", id=document["event"]["id"], why=reason)


def never_muted(_alert: Alert) -> str | None:
    """Default of ``muted``."""
    return None


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


def connect(settings: ElasticsearchSettings) -> AsyncElasticsearch:
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


class ElasticsearchAlertStore:
    """``AlertStore`` on Elasticsearch.

    ``on_refused(document, reason)`` is called for a document the server will never take (a mapping error, for instance);
    the others of the same write are stored all the same. ``muted(alert)`` says why nobody was told, for the document.
    """

    def __init__(
        self,
        settings: ElasticsearchSettings,
        *,
        on_refused: Refused = log_refused,
        muted: MuteReason = never_muted,
        attempts: int = 4,
    ) -> None:
        self._settings = settings
        self._client = connect(settings)
        self._on_refused = on_refused
        self._muted = muted
        self._attempts = attempts
        self.alerts_alias = f"{settings.index_prefix}-alerts"
        self.events_alias = f"{settings.index_prefix}-alert-events"
        self.words_alias = f"{settings.index_prefix}-words"
        self.notifications_alias = f"{settings.index_prefix}-notifications"

    async def install_templates(self) -> None:
        """Create or replace the index templates. Idempotent. Raises ``StoreUnavailable`` or ``ConfigError`` (not allowed)."""
        for alias, mappings in (
            (self.alerts_alias, MAPPINGS),
            (self.events_alias, MAPPINGS),
            (self.words_alias, WORD_MAPPINGS),
            (self.notifications_alias, DELIVERY_MAPPINGS),
        ):
            template = {
                "settings": {"number_of_shards": self._settings.shards, "number_of_replicas": self._settings.replicas},
                "mappings": mappings,
                "aliases": {alias: {}},
            }
            try:
                await self._client.indices.put_index_template(
                    name=alias, index_patterns=[f"{alias}-*"], template=template, priority=200, meta={"owner": "tidewatch"}
                )
            except (ApiError, AnyTransportError) as error:
                raise translated(error, self._settings.url) from error

    async def check(self) -> str:
        """Reach the server with these credentials; one sentence. Raises ``StoreUnavailable`` or ``ConfigError``."""
        return await cluster_health(self._client, self._settings.url)

    async def write(self, alerts: Sequence[Alert]) -> None:
        """Store transitions: the newest state of each alert, and each transition as an event. Safe to repeat.

        Raises ``StoreUnavailable`` when the server (or some shard) does not take them after a few tries; nothing is lost
        by writing the same transitions again.
        """
        pending = [operation for alert in alerts for operation in self._operations(alert)]
        for start in range(0, len(pending), BULK_DOCUMENTS):
            await self._write_chunk(pending[start : start + BULK_DOCUMENTS])

    async def write_words(self, commands: Sequence[Command]) -> None:
        """Store what people said, an event each. Safe to repeat. Raises ``StoreUnavailable`` as ``write`` does."""
        pending = []
        for command in commands:
            target = {"_index": f"{self.words_alias}-{month(command.at)}", "_id": word_id(command)}
            # a command never changes, so any version will do to make a repetition a 409
            pending.append(({"index": {**target, "version": 1, "version_type": "external"}}, word_document(command)))
        for start in range(0, len(pending), BULK_DOCUMENTS):
            await self._write_chunk(pending[start : start + BULK_DOCUMENTS])

    async def write_deliveries(self, deliveries: Sequence[Delivery]) -> None:
        """Store how messages fared, a document each; the newest state stays. Raises ``StoreUnavailable`` as ``write`` does."""
        pending = []
        for each in deliveries:
            target = {"_index": f"{self.notifications_alias}-{month(each.owed_at)}", "_id": each.key}
            pending.append(({"index": {**target, "version": version(each), "version_type": "external"}}, delivery_document(each)))
        for start in range(0, len(pending), BULK_DELIVERIES):
            await self._write_chunk(pending[start : start + BULK_DELIVERIES])

    async def _write_chunk(self, pending: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
        async for attempt in stamina.retry_context(on=StoreUnavailable, attempts=self._attempts, timeout=None, wait_max=2.0):
            with attempt:
                pending = await self._bulk(pending)
                if pending:
                    raise StoreUnavailable(f"Elasticsearch asks to slow down: {len(pending)} documents not yet taken.")

    async def _bulk(self, operations: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Send once; returns the operations to try again, in order."""
        try:
            answer = await self._client.bulk(operations=[line for operation in operations for line in operation])
        except (ApiError, AnyTransportError) as error:
            raise translated(error, self._settings.url) from error
        again = []
        for operation, item in zip(operations, answer["items"], strict=True):
            result = item["index"]
            status = int(result["status"])
            if status < 300 or status == 409:  # 409: a newer state is there already, so this one has nothing to add
                continue
            if status == 429 or status >= 500:
                again.append(operation)
            else:
                problem = result.get("error", {})
                self._on_refused(operation[1], f"{problem.get('type', status)}: {problem.get('reason', '')}")
        return again

    def _operations(self, alert: Alert) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        started, whole = month(alert.started_at), document(alert, self._muted(alert))
        state = {"_index": f"{self.alerts_alias}-{started}", "_id": alert.alert_id}
        event = {"_index": f"{self.events_alias}-{started}", "_id": event_id(alert)}
        return [
            ({"index": {**state, "version": alert.seq, "version_type": "external"}}, whole),
            # Also versioned, so that writing the same event again is a 409 and not a new revision.
            ({"index": {**event, "version": alert.seq, "version_type": "external"}}, event_document(whole, alert)),
        ]

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


async def cluster_health(client: AsyncElasticsearch, url: str) -> str:
    """The cluster's name and state in one sentence. Raises ``StoreUnavailable`` or ``ConfigError``."""
    try:
        health = await client.cluster.health()
    except (ApiError, AnyTransportError) as error:
        raise translated(error, url) from error
    return f"cluster {health['cluster_name']} is {health['status']}"


async def search(
    client: AsyncElasticsearch,
    url: str,
    *,
    index: str,
    query: dict[str, Any],
    sort: list[dict[str, Any]],
    size: int,
    after: Sequence[Any] | None = None,
    without: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """The hits of one search. An index that has just been made answers 503 until its shards are there, and a busy server 429: it
    is asked again for some seconds. Raises ``StoreUnavailable`` or ``ConfigError``."""
    async for attempt in stamina.retry_context(on=_not_now, attempts=None, timeout=BUSY_SECONDS, wait_max=1.0):
        with attempt:
            try:
                answer = await client.search(
                    index=index,
                    query=query,
                    sort=sort,
                    size=size,
                    search_after=after,
                    source_excludes=without,
                    ignore_unavailable=True,  # the alias does not exist before the first alert
                )
            except (ApiError, AnyTransportError) as error:
                raise translated(error, url) from error
    hits: list[dict[str, Any]] = answer["hits"]["hits"]
    return hits


def _not_now(error: Exception) -> bool:
    """The server answered, and may have more to say in a moment; one that does not answer at all is told of at once."""
    return isinstance(error, StoreUnavailable) and isinstance(error.__cause__, ApiError)


async def refresh(client: AsyncElasticsearch, url: str, indices: Sequence[str]) -> None:
    """Make what was just written visible to searches. Raises ``StoreUnavailable`` or ``ConfigError``."""
    try:
        await client.indices.refresh(index=indices, ignore_unavailable=True)
    except (ApiError, AnyTransportError) as error:
        raise translated(error, url) from error


def translated(error: Exception, url: str) -> StoreUnavailable | ConfigError:
    """The client's exception as one of ours, with what to do next; it names the server, never a secret."""
    if isinstance(error, ApiError) and error.status_code in (401, 403):
        return ConfigError(
            f"Elasticsearch at {url} refuses these credentials ({error.status_code}).",
            hint="Check elasticsearch.api_key, or username and password, and that they may write the indices.",
        )
    if isinstance(error, ApiError) and error.status_code not in (408, 429) and error.status_code < 500:
        return ConfigError(
            f"Elasticsearch at {url} refuses the request: {error.message}.", hint="Is this Elasticsearch 8 or later?"
        )
    cause = error.__cause__
    if isinstance(cause, aiohttp.ClientConnectorCertificateError):
        why = getattr(cause.certificate_error, "verify_message", str(cause.certificate_error))
        return ConfigError(
            f"The certificate of Elasticsearch at {url} is not trusted: {why.rstrip('.')}.",
            hint="Set elasticsearch.ca_file to the authority that signed it, and name the host in url as the certificate does.",
        )
    if isinstance(cause, _Redirected):
        return ConfigError(
            f"Elasticsearch at {url} sends us to another address; redirects are not followed.",
            hint="Set elasticsearch.url to the address where the server itself answers.",
        )
    if isinstance(error, TransportError):
        return StoreUnavailable(f"Elasticsearch at {url} does not answer.")
    return StoreUnavailable(f"Elasticsearch at {url} cannot take the request now: {type(error).__name__}.")
