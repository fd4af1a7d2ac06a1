"""One tree of settings, from (first wins) command-line overrides, ``TIDEWATCH_`` environment variables, a YAML or TOML file.

Nested keys are joined by two underscores: ``TIDEWATCH_KAFKA__BOOTSTRAP_SERVERS``. Secrets are ``SecretStr`` and may be
read from a file (``password_file``) so that they need not stand in the environment. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
    YamlConfigSettingsSource,
)

from service.domain import SeverityBounds
from service.errors import ConfigError

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Seconds = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A group of settings; an unknown key is an error, so a typing mistake never passes silently."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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


class ElasticsearchSettings(Section):
    """How to reach Elasticsearch, and how the history is kept there."""

    url: str = "http://127.0.0.1:9200"
    api_key: SecretStr | None = None
    api_key_file: Path | None = None
    username: str | None = None
    password: SecretStr | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    index_prefix: str = "tidewatch"
    request_timeout_seconds: Seconds = 10.0
    shards: Positive = 1
    replicas: Annotated[int, Field(ge=0)] = 0


class ModelRule(Section):
    """Which bundle serves which entities; the first rule whose glob matches wins."""

    match: str = "*"
    bundle: Path


class StreamSettings(Section):
    """Time and memory of the sliding windows (the grid interval, window and stride are the bundle's own)."""

    allowed_lateness_seconds: Annotated[float, Field(ge=0)] = 0.0
    max_gap_rows: Annotated[int, Field(ge=0)] = 5
    min_coverage: Share = 0.5
    max_ahead_seconds: Seconds = 300.0
    max_message_bytes: Positive = 1_000_000
    max_labels: Positive = 32
    max_entities: Positive = 100_000
    idle_after_seconds: Seconds = 3600.0
    max_batch_records: Positive = 10_000
    max_delay_ms: Positive = 20  # what waited for the last batch waits so long, at most, for newer to join it
    max_rewind_records: Positive = 2_000_000
    start_from: Literal["earliest", "latest"] = "earliest"  # where a group that never committed begins


class BudgetSettings(Section):
    """The false alarms people accept: per entity and day."""

    false_alarms_per_entity_day: Annotated[float, Field(gt=0)] = 1.0


class DetectionSettings(Section):
    """How verdicts are reached from the bundle's detectors."""

    # "budget" follows drift; the others are the plain static rules of the literature, which do not.
    rule: Literal["budget", "mean+2sigma", "mean+3sigma", "quantile", "majority"] = "budget"
    budget: BudgetSettings = BudgetSettings()
    detectors: dict[str, float] | None = None  # only these of the bundle's members, with weights; None: as trained
    timeout_seconds: Seconds = 30.0
    threads: Positive = 2


class TrainingSettings(Section):
    """How a bundle is trained; kept inside the bundle."""

    # By name: a weight, or options, among them ``weight`` or ``beside``.
    detectors: dict[str, float | dict[str, Any]] = {
        "mahalanobis": 4.0,
        "deep": 1.0,
        "statistical": 1.0,
        "autoregression": 1.0,
        "departure": {"beside": 1.0},
    }
    combination: Literal["tail", "zscore", "votes"] = "tail"  # how the detectors' scores become one
    window: Positive = 100
    stride: Positive = 10
    # Of the normal strides so many hold a window between those of the grid, due at once where the metrics jump; 0: none do.
    early_share: Annotated[float, Field(ge=0, lt=0.5)] = 0.05
    seed: int = 0
    device: str = "auto"
    calibration_share: Annotated[float, Field(gt=0, lt=0.9)] = 0.2
    refit: bool = True  # after calibrating, learn once more from all rows, the calibration's too
    max_windows: Positive = 8_000
    max_calibration_windows: Annotated[int, Field(ge=100)] = 200_000  # of more, evenly so many: neighbours tell the same
    epochs: Positive = 50
    patience: Positive = 5
    batch_size: Positive = 256
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3


class EpisodeSettings(Section):
    """The life of an alert: when it opens, fires, changes and resolves. Times are event time.

    An anomalous window of at least ``min_severity`` opens one. It is evidence when its newest stride rows are unusual by
    themselves (``fresh_p`` at or below ``fresh_p_below``); ``fire_after`` of the last ``fire_within`` must be for it to fire.
    """

    fire_after: Positive = 2
    fire_within: Annotated[int, Field(gt=0, le=63)] = 3
    # Scores above which an anomaly is that severe; how high a bundle's scores can go, tidewatch check says.
    warning_above: Annotated[float, Field(gt=0, lt=1)] = SeverityBounds().warning
    critical_above: Annotated[float, Field(gt=0, lt=1)] = SeverityBounds().critical
    min_severity: Literal["info", "warning", "critical"] = "info"
    fresh_p_below: Annotated[float, Field(gt=0, le=1)] = 0.02
    severity_hysteresis: Share = 0.05  # how far the score must stay below a severity's bound before it is lowered
    resolve_after_windows: Positive = 3
    max_severity_changes: Positive = 6  # beyond these an alert only rises to a new peak, fires or resolves
    max_gap_seconds: Seconds = 600.0  # no scored window for longer (and for at least 6 strides) closes the alert
    max_episode_seconds: Seconds = 86_400.0

    @model_validator(mode="after")
    def _k_of_n(self) -> Self:
        if self.fire_after > self.fire_within:
            raise ValueError("alerts.fire_after must not exceed alerts.fire_within")
        return self

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.warning_above > self.critical_above:
            raise ValueError("alerts.warning_above must not exceed alerts.critical_above")
        return self

    @property
    def bounds(self) -> SeverityBounds:
        """The scores above which an anomaly is that severe."""
        return SeverityBounds(self.warning_above, self.critical_above)


class SlackReceiver(Section):
    """A Slack incoming webhook."""

    name: str
    type: Literal["slack"] = "slack"
    url: SecretStr | None = None
    url_file: Path | None = None
    template: Path | None = None  # Jinja2, makes the text of the message (Slack's mrkdwn)
    min_severity: Literal["info", "warning", "critical"] = "info"
    allow_http: bool = False


class EmailReceiver(Section):
    """A list of mailboxes behind one SMTP server."""

    name: str
    type: Literal["email"] = "email"
    to: list[str]
    sender: str = "tidewatch@localhost"
    host: str = "127.0.0.1"
    port: Annotated[int, Field(gt=0, lt=65536)] = 587
    tls: Literal["starttls", "tls", "none"] = "starttls"
    username: str | None = None
    password: SecretStr | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    text_template: Path | None = None  # Jinja2, each makes one form of the body
    html_template: Path | None = None
    min_severity: Literal["info", "warning", "critical"] = "info"


class WebhookReceiver(Section):
    """Any HTTP endpoint; the body is signed (HMAC-SHA256) when a secret is given."""

    name: str
    type: Literal["webhook"] = "webhook"
    url: SecretStr | None = None
    url_file: Path | None = None
    secret: SecretStr | None = None
    secret_file: Path | None = None
    template: Path | None = None  # Jinja2, makes the JSON body; instead of Tidewatch's own
    min_severity: Literal["info", "warning", "critical"] = "info"
    allow_http: bool = False


Receiver = Annotated[SlackReceiver | EmailReceiver | WebhookReceiver, Field(discriminator="type")]


class RouteSettings(Section):
    """Which alerts go to which receivers, and how they are gathered into messages.

    ``match`` maps ``entity``, ``severity``, ``model`` or a label to a glob (``"!glob"`` means: anything else); all must
    hold. The first route that matches wins, unless it says ``go_on``. ``group_by`` takes the same names: alerts that
    agree on them share a message; nothing named puts everything into one.
    """

    match: dict[str, str] = {}
    receivers: list[str]
    go_on: bool = False
    group_by: list[str] = []
    group_wait_seconds: Annotated[float, Field(ge=0)] = 5.0
    group_interval_seconds: Annotated[float, Field(ge=0)] = 60.0
    repeat_interval_seconds: Seconds = 14_400.0


class SilenceSettings(Section):
    """Alerts that match (see ``routes``) are stored but not told from ``starts`` to ``ends``; times without a zone are UTC."""

    match: Annotated[dict[str, str], Field(min_length=1)]
    starts: datetime
    ends: datetime
    author: str
    comment: str

    @model_validator(mode="after")
    def _order(self) -> Self:
        utc = [moment if moment.tzinfo else moment.replace(tzinfo=UTC) for moment in (self.starts, self.ends)]
        if utc[0] >= utc[1]:
            raise ValueError("a silence must end after it starts")
        return self


class InhibitRuleSettings(Section):
    """While an alert matching ``source`` fires, those matching ``target`` that agree with it on ``equal`` are not told."""

    source: Annotated[dict[str, str], Field(min_length=1)]
    target: Annotated[dict[str, str], Field(min_length=1)]
    equal: list[str] = []


class MaintenanceSettings(Section):
    """From each time that ``cron`` names, in ``timezone``, for ``duration_minutes``: alerts that match are not told."""

    cron: str
    duration_minutes: Positive
    timezone: str = "UTC"
    match: dict[str, str] = {}
    comment: str = ""

    @model_validator(mode="after")
    def _readable(self) -> Self:
        from croniter import croniter  # only who uses maintenance windows pays for its import

        if not croniter.is_valid(self.cron):
            raise ValueError(f"{self.cron!r} is not a cron expression (minute hour day month weekday)")
        try:
            ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"there is no time zone {self.timezone!r} (use a name like Europe/Berlin)") from error
        return self


class HeartbeatSettings(Section):
    """A webhook called while every part is alive and ready; when it stays silent, Tidewatch has stopped."""

    url: SecretStr | None = None
    url_file: Path | None = None
    interval_seconds: Seconds = 60.0
    allow_http: bool = False


class NotificationSettings(Section):
    """Who is told, and how long each delivery is tried. Without ``routes`` every receiver gets every alert."""

    receivers: list[Receiver] = []
    routes: list[RouteSettings] = []
    silences: list[SilenceSettings] = []
    inhibit_rules: list[InhibitRuleSettings] = []
    maintenance: list[MaintenanceSettings] = []
    heartbeat: HeartbeatSettings | None = None
    send_resolved: bool = True
    attempt_timeout_seconds: Seconds = 10.0
    deadline_seconds: Seconds = 3600.0
    history_url: str | None = None  # where a message's "history" link leads, with {alert_id} in it

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = [receiver.name for receiver in self.receivers]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"notifications.receivers: the name {twice[0]!r} is used twice")
        unknown = sorted({name for route in self.routes for name in route.receivers} - set(names))
        if unknown:
            raise ValueError(f"notifications.routes: there is no receiver named {unknown[0]!r}")
        return self

    def effective_routes(self) -> list[RouteSettings]:
        """The routes, or one that sends everything to everyone when none is written."""
        return self.routes or [RouteSettings(receivers=[receiver.name for receiver in self.receivers])]


class DataHealthSettings(Section):
    """When to tell people about the data itself; a bound of None is not watched. The notifier looks every
    ``check_every_seconds``, and tells after ``fire_after`` bad looks in a row. What it cannot see from outside, the scoring
    workers report to it as often."""

    check_every_seconds: Seconds = 30.0
    fire_after: Positive = 3
    max_lag_records: Positive | None = 100_000
    max_rejected_share: Share | None = 0.05
    max_quiet_seconds: Seconds | None = None
    max_silent_seconds: Seconds | None = None  # of one entity
    still_metrics: bool = True
    empty_metrics: bool = True
    max_late_share: Share | None = 0.05
    max_model_age_days: Annotated[float, Field(gt=0)] | None = 90.0

    @property
    def watched(self) -> frozenset[str]:
        """The checks that have a bound, by name."""
        bounds = {
            "lag": self.max_lag_records,
            "rejected": self.max_rejected_share,
            "quiet": self.max_quiet_seconds,
            "silent": self.max_silent_seconds,
            "still": self.still_metrics or None,
            "empty": self.empty_metrics or None,
            "late": self.max_late_share,
            "model": self.max_model_age_days,
        }
        return frozenset(name for name, bound in bounds.items() if bound is not None)

    @property
    def reported(self) -> frozenset[str]:
        """Those of them that need the reports of the scoring workers."""
        return self.watched & {"silent", "still", "empty", "late", "model"}


class HttpSettings(Section):
    """Where health and metrics are served; loopback unless told otherwise. Port 0 picks a free one."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, lt=65536)] = 8080


class ApiSettings(Section):
    """Where `tidewatch api` serves, and the token that callers must send. Without a token it can only be read."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, lt=65536)] = 8081
    token: SecretStr | None = None
    token_file: Path | None = None


class LogSettings(Section):
    """``auto`` is pretty on a terminal and JSON elsewhere."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "pretty", "json"] = "auto"


class Settings(BaseSettings):
    """Everything Tidewatch can be told."""

    model_config = SettingsConfigDict(env_prefix="TIDEWATCH_", env_nested_delimiter="__", extra="forbid", frozen=True)

    kafka: KafkaSettings = KafkaSettings()
    elasticsearch: ElasticsearchSettings = ElasticsearchSettings()
    models: list[ModelRule] = []
    stream: StreamSettings = StreamSettings()
    detection: DetectionSettings = DetectionSettings()
    training: TrainingSettings = TrainingSettings()
    alerts: EpisodeSettings = EpisodeSettings()
    notifications: NotificationSettings = NotificationSettings()
    data_health: DataHealthSettings = DataHealthSettings()
    http: HttpSettings = HttpSettings()
    api: ApiSettings = ApiSettings()
    log: LogSettings = LogSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the name is pydantic-settings' own
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the name is pydantic-settings' own
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, env_settings, *_file_source(settings_cls))

    def config_hash(self) -> str:
        """Twelve hex digits that change when anything that influences verdicts or alerts changes (no secrets in it)."""
        told = self.model_dump_json(include={"stream", "detection", "alerts"})
        return hashlib.sha256(told.encode()).hexdigest()[:12]


# The file is named by the environment so that pydantic-settings' own machinery orders it below the variables.
CONFIG_VARIABLE = "TIDEWATCH_CONFIG"


def _file_source(settings_cls: type[BaseSettings]) -> tuple[PydanticBaseSettingsSource, ...]:
    named = os.environ.get(CONFIG_VARIABLE)
    if not named:
        return ()
    path = Path(named)
    if path.suffix == ".toml":
        return (TomlConfigSettingsSource(settings_cls, toml_file=path),)
    return (YamlConfigSettingsSource(settings_cls, yaml_file=path),)


def load_settings(config: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings from ``config`` (or the file named by ``TIDEWATCH_CONFIG``), the environment and ``overrides``.

    Raises ``ConfigError`` naming every key that is wrong.
    """
    if config is not None:
        os.environ[CONFIG_VARIABLE] = str(config)
    named = os.environ.get(CONFIG_VARIABLE)
    if named and not Path(named).is_file():
        raise ConfigError(f"The settings file {named} does not exist.", hint="Give --config FILE, or copy config.example.yaml.")
    try:
        return Settings(**dict(overrides or {}))
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))
        raise ConfigError(f"The settings are wrong: {wrong}.", hint="config.example.yaml documents every key.") from error
    except (ValueError, yaml.YAMLError) as error:  # a TOML error is a ValueError
        flat = " ".join(str(error).split())
        raise ConfigError(f"The settings file {named} cannot be read: {flat}.", hint="Check its syntax.") from error


def reveal(secret: SecretStr | None, file: Path | None) -> str | None:
    """The text of a secret given directly or through a file; ``None`` when neither is set.

    Raises ``ConfigError`` when the file cannot be read.
    """
    if secret is not None:
        return secret.get_secret_value()
    if file is None:
        return None
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError as error:
        why = f"The secret file {file} cannot be read: {error.strerror}."
        raise ConfigError(why, hint="Check its path and permissions.") from error
