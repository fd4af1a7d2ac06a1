"""Settings: where they come from, which wins, and what a mistake says."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.errors import ConfigError
from service.settings import Settings, load_settings, reveal


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
