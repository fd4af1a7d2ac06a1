"""The library form as it was specified: its short forms of configuration, frames, saving, and what a result is."""

from __future__ import annotations

import re
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from service import RealTimeAnomalyDetector
from service.alerts.history.reader import AlertHistory
from service.app import open_bundle
from service.demo.receivers import HttpReceiver, MailReceiver
from service.domain import Verdict
from service.errors import ConfigError
from service.library.config import settings_of
from service.settings import ElasticsearchSettings, EmailReceiver, SlackReceiver, TrainingSettings
from tests.e2e.series import FAULT, METRICS, normal, with_fault

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
SEED = 12
QUICK = {"training": {"detectors": {"mahalanobis": 1.0}}, "window_size": 40, "stride": 5}


async def as_stream(items: Any) -> AsyncIterator[Any]:
    for item in items:
        yield item


@pytest.mark.elasticsearch
async def test_the_specified_usage_stores_and_sends_what_it_finds(
    elasticsearch_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    host, port = elasticsearch_url.removeprefix("http://").split(":")
    async with HttpReceiver() as slack, MailReceiver() as inbox:
        config = {
            "deep_config": {"input_dim": len(METRICS), "latent_dim": 6, "hidden_layers": [32, 16]},
            "stat_config": {"contamination": 0.05, "ensemble_weights": [0.4, 0.3, 0.3]},
            "window_size": 100,
            "stride": 10,
            "alert_config": {
                "notification": {
                    "email": ["oncall@example.com", "sre@example.com"],
                    "slack_webhook": slack.url,
                    "smtp": {"port": inbox.port},
                },
                "storage": {"type": "elasticsearch", "host": host, "port": int(port)},
            },
        }
        detector = RealTimeAnomalyDetector(config)
        detector.fit(normal(2500, seed=1))
        data_stream = as_stream(with_fault(seed=SEED))
        found = []
        async for result in detector.process_stream(data_stream):
            assert result["is_anomaly"] is result.is_anomaly
            if result["is_anomaly"]:
                print(result)
                found.append(result)
        assert any(FAULT.start <= result.end_row < FAULT.stop + 100 for result in found)
        assert "instead of about" in capsys.readouterr().out
        assert slack.accepted
        assert {address for mail in inbox.accepted for address in mail.recipients} == {"oncall@example.com", "sre@example.com"}
    history = AlertHistory(ElasticsearchSettings(url=elasticsearch_url))
    try:
        await history.refresh()
        assert any(alert["tidewatch"]["entity"] == "stream" for alert in await history.find())
    finally:
        await history.close()


@pytest.mark.elasticsearch
async def test_the_snippet_of_the_readme_runs_as_printed(
    elasticsearch_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (snippet,) = re.findall(r"```python\n(from service import RealTimeAnomalyDetector.*?)```", README, re.DOTALL)
    port = elasticsearch_url.rsplit(":", 1)[1]
    assert '"port": 9200' in snippet
    code = snippet.replace('"port": 9200', f'"port": {port}').replace('"localhost"', '"127.0.0.1"')
    code = code.replace('["oncall@example.com"], ', '["oncall@example.com"], "smtp": {"port": inbox.port}, ')
    monkeypatch.chdir(tmp_path)
    async with HttpReceiver() as slack, MailReceiver() as inbox:
        known = {
            "history": normal(2500, seed=1),
            "stream": as_stream(with_fault(seed=SEED)),
            "slack_url": slack.url,
            "inbox": inbox,
        }
        program = "async def main():\n" + textwrap.indent(code, "    ")
        exec(compile(program, "README.md", "exec"), known)  # our own page
        await known["main"]()  # type: ignore[operator]
        assert slack.accepted
        assert inbox.accepted
    assert "instead of about" in capsys.readouterr().out
    assert open_bundle(tmp_path / "bundles" / "hosts").window == 100


def test_its_short_forms_reach_the_detectors_and_the_receivers() -> None:
    settings = settings_of(
        {
            "deep_config": {"input_dim": 4, "latent_dim": 7, "hidden_layers": [9]},
            "stat_config": {"contamination": 0.1, "ensemble_weights": [0.5, 0.5, 0.0]},
            "alert_config": {
                "notification": {"email": ["a@example.com"], "slack_webhook": "https://example.com/hook"},
                "storage": {"type": "elasticsearch", "host": "es.example.com", "port": 9201},
            },
        }
    )
    detectors = settings.training.detectors
    assert detectors["deep"] == {"latent": 7, "hidden": [9]}
    weights = {"isolation_forest": 0.5, "elliptic_envelope": 0.5, "one_class_svm": 0.0}
    assert detectors["statistical"] == {"contamination": 0.1, "weights": weights}
    assert set(detectors) == set(TrainingSettings().detectors)
    email, slack = settings.notifications.receivers
    assert isinstance(email, EmailReceiver)
    assert isinstance(slack, SlackReceiver)
    assert (email.host, email.port, email.tls, email.to) == ("localhost", 25, "none", ["a@example.com"])
    assert not slack.allow_http
    assert settings.elasticsearch.url == "http://es.example.com:9201"


@pytest.mark.parametrize("left_out", [("deep_config", "deep"), ("stat_config", "statistical")])
def test_none_leaves_out_one_detector_and_nothing_else(left_out: tuple[str, str]) -> None:
    key, name = left_out
    assert set(settings_of({key: None}).training.detectors) == set(TrainingSettings().detectors) - {name}


def test_mail_to_another_machine_is_encrypted_unless_told_otherwise() -> None:
    notification = {"email": "a@example.com", "smtp": {"host": "mail.example.com"}}
    (email,) = settings_of({"alert_config": {"notification": notification}}).notifications.receivers
    assert isinstance(email, EmailReceiver)
    assert (email.port, email.tls, email.to) == (587, "starttls", ["a@example.com"])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"stat_config": {"ensemble_weights": [1.0]}}, "ensemble_weights"),
        ({"alert_config": {"storage": {"type": "mongodb"}}}, "mongodb"),
        ({"alert_config": {"storage": {"url": "http://a:1", "port": 9}}}, "both a url and a host or port"),
        ({"alert_config": {"notification": {"smtp": {"host": "a"}}}}, "nobody gets any"),
        ({"alert_config": {"storage": {"port": "abc"}}}, "storage.port"),
        ({"alert_config": {"storage": {"host": "http://es", "port": 9200}}}, "storage.host"),
        ({"alert_config": {"notification": {"slack_webhook": "http://[::1"}}}, "slack_webhook"),
        ({"alert_config": []}, "alert_config"),
        ({"stat_config": {"ensemble_weights": ["a", "b", "c"]}}, "ensemble_weights"),
        ({"stat_config": {"ensemble_weights": [0, 0, 0]}}, "ensemble_weights"),
        ({"deep_config": {"input_dim": "six"}}, "deep_config.input_dim"),
        ({"deep_config": [64, 32]}, "deep_config"),
        ({"training": [1]}, "training"),
        ({"metrics": "cpu"}, "metrics"),
        ({"learn_rows": 0}, "learn_rows"),
        ({"interval_seconds": -1}, "interval_seconds"),
        ({"alert_config": {"notification": {"email": ["a@b.c"], "smtp": {"hostname": "a"}}}}, "hostname"),
    ],
)
def test_a_mistake_in_a_short_form_is_named(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        RealTimeAnomalyDetector(wrong)


def test_another_number_of_metrics_than_input_dim_is_refused() -> None:
    with pytest.raises(ConfigError, match=f"input_dim is 99, but the data have {len(METRICS)} metrics"):
        RealTimeAnomalyDetector({"deep_config": {"input_dim": 99}}).fit(normal(500, seed=1))


def test_a_bundle_of_another_number_of_metrics_than_input_dim_is_refused(tmp_path: Path) -> None:
    detector = RealTimeAnomalyDetector(QUICK)
    detector.fit(normal(2000, seed=1))
    path = detector.save(tmp_path / "bundle")
    with pytest.raises(ConfigError, match=f"input_dim is 99, but the data have {len(METRICS)} metrics"):
        RealTimeAnomalyDetector({"bundle": path, "deep_config": {"input_dim": 99}})


def test_contamination_and_weights_change_what_the_statistical_members_learn() -> None:
    def learned(**options: Any) -> dict[str, np.ndarray]:
        config = {"deep_config": None, "stat_config": options, "window_size": 40, "stride": 5}
        config["training"] = {"detectors": {"statistical": config_of_statistical(config)}}
        bundle = RealTimeAnomalyDetector(config).fit(normal(2000, seed=1))
        (member,) = bundle.members
        return dict(member.detector.state()[1])

    plain, contaminated = learned(), learned(contamination=0.1)
    for vote in ("isolation_forest", "elliptic_envelope", "one_class_svm"):
        arrays = [name for name in plain if name.startswith(vote) and not name.startswith(f"{vote}-scale")]
        assert arrays
        assert any(not np.array_equal(plain[name], contaminated[name]) for name in arrays), vote
    assert not [name for name in learned(ensemble_weights={"isolation_forest": 1.0}) if name.startswith("one_class_svm")]


def config_of_statistical(config: dict[str, Any]) -> Any:
    return settings_of(config).training.detectors["statistical"]


def test_a_contamination_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="contamination must be"):
        RealTimeAnomalyDetector({"deep_config": None, "stat_config": {"contamination": 0.7}}).fit(normal(2000, seed=1))


def frame(values: np.ndarray, start: str = "2026-11-01T00:00:00", *, zone: str | None = "UTC") -> pd.DataFrame:
    times = pd.date_range(start, periods=len(values), freq="10s", tz=zone)
    return pd.DataFrame(values, columns=METRICS, index=times)


@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
async def test_frames_name_the_metrics_and_give_the_times(zone: str | None) -> None:
    detector = RealTimeAnomalyDetector(QUICK)
    bundle = detector.fit(frame(normal(2000, seed=1), zone=zone))
    assert bundle.schema.metrics == tuple(METRICS)
    assert bundle.schema.interval_ms == 10_000
    rows = frame(with_fault(seed=SEED), "2026-11-02T00:00:00", zone=zone)[list(METRICS)[::-1]]  # in another order of columns
    gone = rows.drop(rows.index[FAULT.stop + 100 : FAULT.stop + 130])  # rows that did not come are rows all the same
    results = [result async for result in detector.process_stream(as_stream([gone.iloc[:300], gone.iloc[300:]]))]
    first, last = (rows.index[at].timestamp() * 1000 for at in (FAULT.start, FAULT.stop))
    hits = [result for result in results if result.is_anomaly and first <= result.timestamp < last]
    assert hits
    assert {metric.name for metric in hits[0].metrics[:2]} == {"latency", "errors"}
    ends = [result.timestamp for result in results]
    assert ends == sorted(set(ends))
    assert ends[-1] <= rows.index[-1].timestamp() * 1000


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows.drop(columns="latency"), "lacks latency"),
        (lambda rows: rows.assign(extra=1.0), "has extra"),
        (lambda rows: rows.iloc[::-1], "do not rise"),
    ],
)
async def test_a_frame_that_does_not_fit_is_refused_in_words(change: Any, said: str) -> None:
    detector = RealTimeAnomalyDetector(QUICK)
    detector.fit(frame(normal(2000, seed=1)))
    with pytest.raises(ConfigError, match=said):
        async for _ in detector.process_stream(as_stream([change(frame(normal(100, seed=2), "2026-11-02"))])):
            pass


async def test_a_saved_detector_is_a_bundle_that_scores_the_same(tmp_path: Path) -> None:
    detector = RealTimeAnomalyDetector(QUICK)
    with pytest.raises(ConfigError, match="nothing to save"):
        detector.save(tmp_path / "early")
    detector.fit(normal(2000, seed=1))
    path = detector.save(tmp_path / "bundle")
    assert open_bundle(path).window == 40
    again = RealTimeAnomalyDetector({"bundle": path})
    rows = with_fault(seed=SEED)
    expected = [result.p async for result in detector.process_stream(as_stream(rows))]
    assert [result.p async for result in again.process_stream(as_stream(rows))] == expected


def test_a_result_is_read_by_name_and_printed_for_people() -> None:
    result = Verdict(entity="db-7", end_row=1, timestamp=0, stride=1, score=0.83, is_anomaly=True)
    assert result["score"] == 0.83
    assert str(result) == "1970-01-01T00:00:00Z db-7: info, score 0.83"
    with pytest.raises(KeyError):
        result["no such field"]
