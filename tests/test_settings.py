"""Settings: where they come from, which wins, and what a mistake says."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service import RealTimeAnomalyDetector
from service.commands.common import read_settings
from service.errors import ConfigError
from service.settings import RenamedSettingWarning, Settings, load_settings, reveal


@pytest.fixture(autouse=True)
def _no_outside_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIDEWATCH_CONFIG", raising=False)


def test_a_variable_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "tidewatch.yaml"
    file.write_text("kafka:\n  bootstrap_servers: from-file:9092\n  group_prefix: from-file\n")
    monkeypatch.setenv("TIDEWATCH_KAFKA__BOOTSTRAP_SERVERS", "from-env:9092")

    kafka = load_settings(file).kafka

    assert kafka.bootstrap_servers == "from-env:9092"
    assert kafka.group_prefix == "from-file"
    assert kafka.security_protocol == "PLAINTEXT"


def test_toml_is_read_as_well(tmp_path: Path) -> None:
    file = tmp_path / "tidewatch.toml"
    file.write_text('[elasticsearch]\nurl = "https://es:9200"\n')
    assert load_settings(file).elasticsearch.url == "https://es:9200"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kafka:\n  bootstrap_server: x\n", "kafka.bootstrap_server"),
        ("stream:\n  min_coverage: 2\n", "stream.min_coverage"),
        ("alerts:\n  fire_after: 4\n  fire_within: 3\n", "fire_after"),
        ("alerts: {warning_above: 0.8, critical_above: 0.6}\n", "alerts.warning_above must not exceed alerts.critical_above"),
        ("kafka: [\n", "cannot be read"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "tidewatch.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        load_settings(file)
    assert caught.value.hint


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml does not exist"):
        load_settings(tmp_path / "nowhere.yaml")


def test_secrets_do_not_show(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TIDEWATCH_KAFKA__PASSWORD", "hunter2")
    settings = load_settings()
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in settings.model_dump_json()
    assert reveal(settings.kafka.password, None) == "hunter2"

    file = tmp_path / "secret"
    file.write_text("from-file\n")
    assert reveal(None, file) == "from-file"
    with pytest.raises(ConfigError, match="cannot be read"):
        reveal(None, tmp_path / "missing")


def test_the_hash_follows_what_influences_verdicts_and_nothing_else() -> None:
    base = Settings()
    assert base.config_hash() == Settings(kafka={"bootstrap_servers": "elsewhere:1"}).config_hash()
    assert base.config_hash() != Settings(alerts={"fire_after": 1}).config_hash()


ROUTES = [{"receivers": ["slack"], "go_on": True}, {"receivers": ["slack"]}]
RECEIVERS = [{"name": "slack", "url": "https://hooks.example.org/x"}]
Given = Callable[[Path, pytest.MonkeyPatch], Settings]


def _in_yaml(folder: Path, _: pytest.MonkeyPatch) -> Settings:
    file = folder / "tidewatch.yaml"
    file.write_text(
        "data_health: {max_quiet_seconds: 60, max_silent_seconds: 90}\n"
        f"notifications: {json.dumps({'receivers': [{**each, 'type': 'slack'} for each in RECEIVERS], 'routes': ROUTES})}\n"
    )
    return load_settings(file)


def _in_toml(folder: Path, _: pytest.MonkeyPatch) -> Settings:
    file = folder / "tidewatch.toml"
    file.write_text(
        "[data_health]\nmax_quiet_seconds = 60\nmax_silent_seconds = 90\n"
        '[[notifications.receivers]]\nname = "slack"\ntype = "slack"\nurl = "https://hooks.example.org/x"\n'
        '[[notifications.routes]]\nreceivers = ["slack"]\ngo_on = true\n'
        '[[notifications.routes]]\nreceivers = ["slack"]\n'
    )
    return load_settings(file)


def _in_the_environment(_: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("TIDEWATCH_DATA_HEALTH__MAX_QUIET_SECONDS", "60")
    monkeypatch.setenv("TIDEWATCH_DATA_HEALTH__MAX_SILENT_SECONDS", "90")
    monkeypatch.setenv("TIDEWATCH_NOTIFICATIONS__RECEIVERS", json.dumps([{**each, "type": "slack"} for each in RECEIVERS]))
    monkeypatch.setenv("TIDEWATCH_NOTIFICATIONS__ROUTES", json.dumps(ROUTES))
    return load_settings()


@pytest.mark.parametrize("given", [_in_yaml, _in_toml, _in_the_environment])
def test_an_old_name_is_accepted_with_a_warning(given: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(RenamedSettingWarning) as caught:
        settings = given(tmp_path, monkeypatch)
    assert settings.data_health.max_topic_idle_seconds == 60
    assert settings.data_health.max_entity_silence_seconds == 90
    assert [route.continue_matching for route in settings.notifications.routes] == [True, False]
    said = {str(warning.message).partition(".")[0] for warning in caught}
    assert said == {
        "The setting max_quiet_seconds is now called max_topic_idle_seconds",
        "The setting max_silent_seconds is now called max_entity_silence_seconds",
        "The setting go_on is now called continue_matching",
    }


def test_the_library_accepts_an_old_name_with_a_warning() -> None:
    notification = {"receivers": [{**each, "type": "slack"} for each in RECEIVERS], "routes": ROUTES}
    with pytest.warns(RenamedSettingWarning, match="continue_matching"):
        RealTimeAnomalyDetector({"alert_config": {"notification": notification}})


def test_the_new_names_warn_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        settings = Settings(data_health={"max_topic_idle_seconds": 60, "max_entity_silence_seconds": 90})
    assert settings.data_health.watched >= {"quiet", "silent"}


@pytest.mark.parametrize(
    ("section", "old", "new"),
    [
        ({"data_health": {"max_quiet_seconds": 60, "max_topic_idle_seconds": 60}}, "max_quiet_seconds", "max_topic_idle_seconds"),
        (
            {"notifications": {"routes": [{"receivers": [], "go_on": True, "continue_matching": True}]}},
            "go_on",
            "continue_matching",
        ),
    ],
)
def test_the_old_and_the_new_name_together_are_refused(section: dict[str, Any], old: str, new: str) -> None:
    with pytest.raises(ConfigError, match=f"{old} is the old name of {new}, and both are given: remove {old}"):
        load_settings(overrides=section)


@pytest.mark.parametrize("quiet", [True, False])
def test_a_command_warns_of_an_old_name_once_on_standard_error(
    quiet: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tidewatch.yaml"
    file.write_text("data_health: {max_quiet_seconds: 60}\n")
    read_settings(file, quiet=quiet)
    shown = capsys.readouterr()
    assert shown.err.count("max_quiet_seconds is now called max_topic_idle_seconds") == 1
    assert shown.out == ""
