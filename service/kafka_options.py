"""The settings every Kafka client of ours is made with."""

from __future__ import annotations

from typing import Any

from aiokafka.helpers import create_ssl_context

from service.errors import ConfigError
from service.settings import KafkaSettings, reveal


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
