"""The mapping that the library form is configured by, as settings.

Beside the sections of the settings it takes short forms: layers of the deep detector, weights of the statistical votes, a list of
addresses and a Slack webhook, and host and port of a store.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AnyHttpUrl, BaseModel, Field, NonNegativeFloat, PositiveFloat, PositiveInt, ValidationError

from service.errors import ConfigError
from service.settings import Settings, TrainingSettings, settings_from, wrong_keys

KEYS = ("window_size", "stride", "interval_seconds", "metrics", "entity", "bundle", "learn_rows")
SECTIONS = ("deep_config", "stat_config", "alert_config", "training", "detection", "stream")
ALERT_KEYS = ("notification", "storage", "episodes")
FAMILIES = {"deep_config": "deep", "stat_config": "statistical"}
# In the order in which a list of ``ensemble_weights`` names them.
VOTES = ("isolation_forest", "elliptic_envelope", "one_class_svm")
SHORT = {"latent_dim": "latent", "hidden_layers": "hidden", "ensemble_weights": "weights"}
Text = Annotated[str, Field(min_length=1)]
SMTP_KEYS = ("host", "port", "tls", "sender", "username", "password", "password_file", "ca_file")


class _Deep(BaseModel):
    input_dim: PositiveInt | None = None


class _Statistical(BaseModel):
    ensemble_weights: list[NonNegativeFloat] | dict[str, NonNegativeFloat] | None = None


class _Notification(BaseModel):
    email: Text | list[Text] | None = None
    slack_webhook: AnyHttpUrl | None = None
    smtp: dict[str, Any] | None = None


class _Storage(BaseModel):
    host: Annotated[str, Field(pattern=r"^[\w.\-:]+$")] | None = None  # a name or an address, no URL
    port: Annotated[int, Field(ge=1, le=65535)] | None = None


class _Alerts(BaseModel):
    notification: _Notification | None = None
    storage: _Storage | None = None
    episodes: dict[str, Any] | None = None


class _Given(BaseModel):
    """The kinds of value that the mapping may have; what the settings check themselves is left to them."""

    interval_seconds: PositiveFloat | None = None
    metrics: list[Text] | tuple[Text, ...] | None = None
    bundle: Path | Text | None = None
    learn_rows: PositiveInt | None = None
    deep_config: _Deep | None = None
    stat_config: _Statistical | None = None
    alert_config: _Alerts | None = None
    training: dict[str, Any] | None = None
    detection: dict[str, Any] | None = None
    stream: dict[str, Any] | None = None


def settings_of(config: Mapping[str, Any]) -> Settings:
    """The mapping as settings. Raises ``ConfigError`` for keys that are unknown or wrong."""
    refuse_unknown(config, (*KEYS, *SECTIONS), "")
    try:
        _Given.model_validate(dict(config))
        return settings_from(_sections(config))
    except ValidationError as error:
        raise ConfigError(
            f"The config is wrong: {wrong_keys(error)}.", hint="See the docstring of RealTimeAnomalyDetector."
        ) from error


def _sections(config: Mapping[str, Any]) -> dict[str, Any]:
    training = dict(config.get("training") or {})
    training |= {name: config[key] for key, name in (("window_size", "window"), ("stride", "stride")) if key in config}
    if "deep_config" in config or "stat_config" in config:
        training.setdefault("detectors", _detectors(config))
    alerts = config.get("alert_config") or {}
    refuse_unknown(alerts, ALERT_KEYS, " in alert_config")
    return {
        "training": training,
        "detection": config.get("detection") or {},
        "stream": config.get("stream") or {},
        "alerts": alerts.get("episodes") or {},
        "notifications": _notifications(alerts.get("notification") or {}),
        "elasticsearch": _storage(alerts.get("storage") or {}),
    }


def input_dim(config: Mapping[str, Any]) -> int | None:
    """How many metrics the config says there are; None where it does not say."""
    said = (config.get("deep_config") or {}).get("input_dim")
    return None if said is None else int(said)


def stores(config: Mapping[str, Any]) -> bool:
    """Whether alerts are to be stored."""
    return (config.get("alert_config") or {}).get("storage") is not None


def refuse_unknown(given: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    """Raise ``ConfigError`` for the first key that is not known."""
    unknown = sorted(map(str, set(given) - set(known)))
    if unknown:
        raise ConfigError(f"There is no key {unknown[0]!r}{where}.", hint=f"Known: {', '.join(known)}.")


def _detectors(config: Mapping[str, Any]) -> dict[str, Any]:
    """The default detectors, with these options, or without the family whose options are ``None``."""
    detectors: dict[str, Any] = dict(TrainingSettings().detectors)
    for key, name in FAMILIES.items():
        if key not in config:
            continue
        if config[key] is None:
            del detectors[name]
            continue
        options = {SHORT.get(option, option): value for option, value in config[key].items() if option != "input_dim"}
        if options.get("weights", {}) is None:
            del options["weights"]
        if not isinstance(options.get("weights", {}), Mapping):
            options["weights"] = _named_weights(options["weights"])
        detectors[name] = options
    return detectors


def _named_weights(weights: Sequence[float]) -> dict[str, float]:
    if len(weights) != len(VOTES) or not sum(map(float, weights)):
        raise ConfigError(
            f"stat_config.ensemble_weights is {weights!r}.",
            hint=f"Give {len(VOTES)} numbers, not all zero, for {', '.join(VOTES)}, or name them.",
        )
    return dict(zip(VOTES, map(float, weights), strict=True))


def _notifications(given: Mapping[str, Any]) -> dict[str, Any]:
    """The section ``notifications``: ``email`` and ``slack_webhook`` become receivers."""
    section = {key: value for key, value in given.items() if key not in ("email", "slack_webhook", "smtp")}
    receivers = list(section.get("receivers") or [])
    if given.get("email"):
        addresses = given["email"]
        smtp = dict(given.get("smtp") or {})
        refuse_unknown(smtp, SMTP_KEYS, " in notification.smtp")
        host = str(smtp.get("host", "localhost"))
        # A mail server on this machine is spoken to as it usually listens; to any other, credentials and alerts go encrypted.
        way = {"port": 25, "tls": "none"} if _is_loopback(host) else {"port": 587, "tls": "starttls"}
        to = [addresses] if isinstance(addresses, str) else list(addresses)
        receivers.append({"name": "email", "type": "email", "to": to, **way, **smtp, "host": host})
    elif given.get("smtp"):
        raise ConfigError("notification.smtp says how to send mail, but nobody gets any.", hint="Name addresses in email.")
    if given.get("slack_webhook"):
        url = str(given["slack_webhook"])
        local = _is_loopback(urlsplit(url).hostname or "")
        receivers.append({"name": "slack", "type": "slack", "url": url, "allow_http": local})
    return {**section, "receivers": receivers} if receivers else section


def _storage(given: Mapping[str, Any]) -> dict[str, Any]:
    """The section ``elasticsearch``: ``host`` and ``port`` become its URL."""
    section = {key: value for key, value in given.items() if key not in ("type", "host", "port")}
    kind = given.get("type", "elasticsearch")
    if kind != "elasticsearch":
        raise ConfigError(f"alert_config.storage.type is {kind!r}.", hint="The only store is elasticsearch.")
    if "host" in given or "port" in given:
        if "url" in section:
            raise ConfigError("alert_config.storage has both a url and a host or port.", hint="Give one of them.")
        host = str(given.get("host") or "localhost")
        section["url"] = f"http://{f'[{host}]' if ':' in host else host}:{int(given.get('port') or 9200)}"
    return section


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
