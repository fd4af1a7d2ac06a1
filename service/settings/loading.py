"""The whole tree of settings and where it comes from: overrides, ``TIDEWATCH_`` environment variables, a YAML or TOML file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
    YamlConfigSettingsSource,
)

from service.errors import ConfigError
from service.settings.alerts import EpisodeSettings
from service.settings.data_health import DataHealthSettings
from service.settings.detection import DetectionSettings
from service.settings.elasticsearch import ElasticsearchSettings
from service.settings.http import ApiSettings, HttpSettings
from service.settings.kafka import KafkaSettings
from service.settings.log import LogSettings
from service.settings.notifications import NotificationSettings
from service.settings.stream import ModelRule, StreamSettings
from service.settings.training import TrainingSettings


class Settings(BaseSettings):
    """All settings of Tidewatch."""

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
        influential = self.model_dump_json(include={"stream", "detection", "alerts"})
        return hashlib.sha256(influential.encode()).hexdigest()[:12]


# Names the settings file. A variable and no argument, so that worker processes inherit it.
CONFIG_VARIABLE = "TIDEWATCH_CONFIG"


def _file_source(settings_cls: type[BaseSettings]) -> tuple[PydanticBaseSettingsSource, ...]:
    named = os.environ.get(CONFIG_VARIABLE)
    if not named:
        return ()
    path = Path(named)
    if path.suffix == ".toml":
        return (TomlConfigSettingsSource(settings_cls, toml_file=path),)
    return (YamlConfigSettingsSource(settings_cls, yaml_file=path),)


class _GivenSettings(Settings):
    """Settings from what is given and the defaults alone."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the names are pydantic-settings' own
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def settings_from(sections: Mapping[str, Any]) -> Settings:
    """The settings of these sections and the defaults; neither a file nor the environment is read.

    Raises ``ValidationError`` naming every key that is wrong.
    """
    return _GivenSettings(**sections)


def wrong_keys(error: ValidationError) -> str:
    """The keys that are wrong, each with why; no values, which may be secrets."""
    return "; ".join(
        f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors(include_input=False)
    )


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
        raise ConfigError(
            f"The settings are wrong: {wrong_keys(error)}.", hint="config.example.yaml documents every key."
        ) from error
    except (ValueError, yaml.YAMLError) as error:  # a TOML error is a ValueError
        flat = " ".join(str(error).split())
        raise ConfigError(f"The settings file {named} cannot be read: {flat}.", hint="Check its syntax.") from error
