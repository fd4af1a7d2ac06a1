"""How to reach Kafka, and what the topics are called."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import SecretStr

from service.settings.base import Positive, Seconds, Section


class TopicSettings(Section):
    """Names of the topics; ``partitions`` and ``retention_hours`` are used when ``tidewatch setup`` creates them."""

    metrics: str = "metrics"
    alerts: str = "tidewatch.alerts"
    control: str = "tidewatch.control"
    state: str = "tidewatch.state"
    notify_state: str = "tidewatch.notify-state"
    notifications: str = "tidewatch.notifications"
    health: str = "tidewatch.health"
    dead_letter: str = "tidewatch.dead-letter"
    partitions: Positive = 4
    replication_factor: Positive = 1
    retention_hours: Positive = 168


class KafkaSettings(Section):
    """How to reach Kafka."""

    bootstrap_servers: str = "127.0.0.1:9092"
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    username: str | None = None
    password: SecretStr | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    group_prefix: str = "tidewatch"
    session_timeout_seconds: Seconds = 10.0
    request_timeout_seconds: Seconds = 20.0
    connect_timeout_seconds: Seconds = 30.0  # how long a start waits for a Kafka that does not answer
    topics: TopicSettings = TopicSettings()
