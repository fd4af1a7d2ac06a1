"""Options, connecting and disconnecting of every Kafka client, and which error its failures become."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Collection, Coroutine
from typing import Any, TypeVar

import msgspec
import stamina
from aiokafka.conn import create_conn
from aiokafka.errors import (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.helpers import create_ssl_context

from service.errors import BrokerUnavailable, ConfigError
from service.kafka_records import install
from service.observability.tasks import retrieve_exception
from service.settings import KafkaSettings, reveal

install()


def kafka_client_options(kafka: KafkaSettings) -> dict[str, Any]:
    """Keyword arguments shared by aiokafka's consumer, producer and admin client. Raises ``ConfigError`` for unusable secrets."""
    options: dict[str, Any] = {
        "bootstrap_servers": kafka.bootstrap_servers,
        "request_timeout_ms": round(kafka.request_timeout_seconds * 1000),
        "security_protocol": kafka.security_protocol,
    }
    if kafka.security_protocol in ("SSL", "SASL_SSL"):
        try:
            options["ssl_context"] = create_ssl_context(
                cafile=str(kafka.ca_file) if kafka.ca_file else None,
                certfile=str(kafka.certificate_file) if kafka.certificate_file else None,
                keyfile=str(kafka.key_file) if kafka.key_file else None,
            )
        except OSError as error:
            raise ConfigError(
                f"The Kafka certificates cannot be used: {error}.", hint="Check kafka.ca_file, certificate_file, key_file."
            ) from error
    if kafka.security_protocol.startswith("SASL"):
        options["sasl_mechanism"] = kafka.sasl_mechanism
        options["sasl_plain_username"] = kafka.username or ""
        options["sasl_plain_password"] = reveal(kafka.password, kafka.password_file) or ""
    return options


Client = TypeVar("Client")

_REFUSED = (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    IllegalSaslStateError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)


async def connect(make: Callable[[], Client], kafka: KafkaSettings) -> Client:
    """Make and start an aiokafka client, retrying for ``connect_timeout_seconds`` while nothing answers.

    Raises ``BrokerUnavailable`` when nothing answered in that time, and ``ConfigError`` at once when credentials or certificates
    are refused.
    """
    async for attempt in stamina.retry_context(
        on=BrokerUnavailable, attempts=None, timeout=kafka.connect_timeout_seconds, wait_max=2.0
    ):
        with attempt:
            return await _start(make(), kafka)
    raise AssertionError("stamina either returns or raises")


async def disconnect(stop: Coroutine[Any, Any, None], seconds: float = 5.0) -> None:
    """Await a client's ``stop`` for a bounded time and ignore what it raises: without a broker aiokafka's may hang, or raise the
    cancellation of its own tasks as if it were ours. After ``seconds`` it is cancelled."""
    stopping = asyncio.ensure_future(stop)
    stopping.add_done_callback(retrieve_exception)
    try:
        await asyncio.wait([stopping], timeout=seconds)
    finally:
        stopping.cancel()


async def _start(client: Client, kafka: KafkaSettings) -> Client:
    started: Any = client
    try:
        await started.start()
    except asyncio.CancelledError:
        await disconnect(started.close() if hasattr(started, "close") else started.stop())
        raise
    except (KafkaError, OSError, TimeoutError) as error:
        await (started.close() if hasattr(started, "close") else started.stop())
        await _explain(kafka)
        raise BrokerUnavailable(
            f"Kafka at {kafka.bootstrap_servers} does not answer ({type(error).__name__}); is it running, and is"
            " kafka.bootstrap_servers right?"
        ) from error
    return client


async def _explain(kafka: KafkaSettings) -> None:
    """aiokafka hides why it could not bootstrap: connect to one server again. Raises ``ConfigError`` when retrying cannot help."""
    host, _, port = kafka.bootstrap_servers.split(",")[0].strip().rpartition(":")
    options = kafka_client_options(kafka)
    del options["bootstrap_servers"]
    try:
        connection = await create_conn(host.strip("[]"), int(port), **options)
    except _REFUSED as error:
        raise ConfigError(
            f"Kafka at {kafka.bootstrap_servers} refuses the credentials of user {kafka.username!r}.",
            hint="Check kafka.username, kafka.password and kafka.sasl_mechanism.",
        ) from error
    except ssl.SSLCertVerificationError as error:
        raise ConfigError(
            f"The certificate of Kafka at {kafka.bootstrap_servers} is not trusted: {error.verify_message}.",
            hint="Set kafka.ca_file to the authority that signed it.",
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"kafka.bootstrap_servers is {kafka.bootstrap_servers!r}, which is not host:port.", hint="Write it like 127.0.0.1:9092."
        ) from error
    except (TimeoutError, KafkaError, OSError):
        return
    connection.close()


class Commit(msgspec.Struct, frozen=True):
    """The commit of one input partition: the next offset to score, and the oldest offset that windows still need.

    ``oldest`` is None when no window needs anything before ``offset``. The metadata has a fixed size, because the broker refuses
    a commit with too much of it.
    """

    offset: int
    oldest: int | None = None

    @property
    def metadata(self) -> str:
        """The text that Kafka stores with the offset."""
        return f"oldest={self.offset if self.oldest is None else self.oldest:020d}"

    @classmethod
    def read(cls, offset: int, metadata: str) -> Commit:
        """A commit as read from Kafka; metadata in another format means that nothing older is needed."""
        name, _, number = (metadata or "").partition("=")
        oldest = int(number) if name == "oldest" and number.isdecimal() else offset
        return cls(offset, min(oldest, offset))


def check_topic_exists(topics: Collection[str], topic: str) -> None:
    """Raises ``ConfigError`` when ``topic`` is not among Kafka's ``topics``: a consumer would wait for it for ever."""
    if topic not in topics:
        raise ConfigError(
            f"The topic {topic} does not exist.", hint="Run `tidewatch setup`, which makes every topic that is missing."
        )
