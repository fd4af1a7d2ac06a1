"""The settings that the demo runs the service with, as an operator would write them into a file."""

from __future__ import annotations

from typing import Any

from service.demo.stage import Stage
from service.settings import TopicSettings

# A window of one second, so that a minute holds enough of them to calibrate on.
TRAINING = {"window": 20, "stride": 5, "epochs": 30, "calibration_share": 0.4}
# One a minute: the calibration supports nothing rarer than one window in about 280, and four windows come in a second.
FALSE_ALARMS_PER_DAY = 1440.0


def config(stage: Stage) -> dict[str, Any]:
    """The settings of the service that the demo shows."""
    slack = {"name": "slack", "type": "slack", "url": f"{stage.slack.url}services/demo", "allow_http": True}
    mail = {"name": "email", "type": "email", "to": ["oncall@example.org"], "tls": "none", "port": stage.inbox.port}
    route = {"receivers": ["slack", "email"], "group_by": ["entity"], "group_wait_seconds": 0.5, "group_interval_seconds": 2}
    settings: dict[str, Any] = {
        "kafka": {"bootstrap_servers": stage.stack.kafka_servers, "topics": {"partitions": 1}},
        "elasticsearch": {"url": stage.stack.elasticsearch_url},
        "models": [{"match": "*", "bundle": str(stage.folder / "bundle")}],
        "stream": {"start_from": "latest"},  # the older records are the training data
        "notifications": {"receivers": [slack, mail], "routes": [route]},
        "data_health": {"still_metrics": False, "empty_metrics": False},  # a minute is too short to know what usually moves
    }
    if stage.live:
        settings |= {"training": TRAINING, "detection": {"budget": {"false_alarms_per_entity_day": FALSE_ALARMS_PER_DAY}}}
    return settings


def warm_up_config(stage: Stage) -> dict[str, Any]:
    """The same service with the first model: it only loads the machine as the real one will. It has topics and indices of its
    own and no receivers, so that none of its alerts is notified or stored in the history."""
    settings = config(stage)
    own = {name: f"warm-up.{name}" for name, field in TopicSettings.model_fields.items() if field.annotation is str}
    settings["kafka"] |= {"group_prefix": "warm-up", "topics": {"partitions": 1, **own, "metrics": "metrics"}}
    settings["elasticsearch"] |= {"index_prefix": "warm-up"}
    settings["models"] = [{"match": "*", "bundle": str(stage.folder / "first")}]
    # Alerts should be rare: storing the first one creates an index, a burst of work that is not normal operation.
    settings["detection"] = {"budget": {"false_alarms_per_entity_day": 0.01}}
    del settings["notifications"]
    return settings
