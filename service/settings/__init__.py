"""One tree of settings, from (first wins) command-line overrides, ``TIDEWATCH_`` environment variables, a YAML or TOML file.

Nested keys are joined by two underscores: ``TIDEWATCH_KAFKA__BOOTSTRAP_SERVERS``. Secrets are ``SecretStr`` and may be
read from a file (``password_file``) so that they need not stand in the environment. Nothing here imports torch.
"""

from __future__ import annotations

from service.settings.alerts import EpisodeSettings
from service.settings.base import RenamedSettingWarning
from service.settings.data_health import DataHealthSettings
from service.settings.detection import BudgetSettings, DetectionSettings
from service.settings.elasticsearch import ElasticsearchSettings
from service.settings.http import ApiSettings, HttpSettings
from service.settings.kafka import KafkaSettings, TopicSettings
from service.settings.loading import CONFIG_VARIABLE, Settings, load_settings, settings_from, wrong_keys
from service.settings.log import LogSettings
from service.settings.notifications import (
    InhibitRuleSettings,
    LinkSettings,
    MaintenanceSettings,
    NotificationSettings,
    RouteSettings,
    SilenceSettings,
    UnitSettings,
)
from service.settings.receivers import EmailReceiver, HeartbeatSettings, Receiver, SlackReceiver, WebhookReceiver
from service.settings.secrets import reveal, without_password
from service.settings.stream import ModelRule, StreamSettings
from service.settings.training import TrainingSettings

__all__ = [
    "CONFIG_VARIABLE",
    "ApiSettings",
    "BudgetSettings",
    "DataHealthSettings",
    "DetectionSettings",
    "ElasticsearchSettings",
    "EmailReceiver",
    "EpisodeSettings",
    "HeartbeatSettings",
    "HttpSettings",
    "InhibitRuleSettings",
    "KafkaSettings",
    "LinkSettings",
    "LogSettings",
    "MaintenanceSettings",
    "ModelRule",
    "NotificationSettings",
    "Receiver",
    "RenamedSettingWarning",
    "RouteSettings",
    "Settings",
    "SilenceSettings",
    "SlackReceiver",
    "StreamSettings",
    "TopicSettings",
    "TrainingSettings",
    "UnitSettings",
    "WebhookReceiver",
    "load_settings",
    "reveal",
    "settings_from",
    "without_password",
    "wrong_keys",
]
