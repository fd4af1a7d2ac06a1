"""The library form, as the README shows it: no Kafka, a plain dict, an async iterator of arrays."""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
import trustme

from service import RealTimeAnomalyDetector
from service.alerts.history.reader import AlertHistory
from service.demo.receivers import HttpReceiver
from service.domain import phase_of
from service.errors import ConfigError
from service.settings import ElasticsearchSettings, TrainingSettings
from tests.e2e.series import FAULT, METRICS, normal, with_fault
from tests.security.tls_proxy import Proxy, tls_proxy

# With this one a false alarm falls 41 rows before the fault. The budget of these tests is one in 864 rows, and has none left for
# some 450 rows after one: the fault is called on credit.
SEED = 12


async def as_stream(values: np.ndarray, at_once: int = 1) -> AsyncIterator[np.ndarray]:
    for begin in range(0, len(values), at_once):
        rows = values[begin : begin + at_once]
        yield rows[0] if at_once == 1 else rows


def config(**more: Any) -> dict[str, Any]:
    return {
        "window_size": 40,
        "stride": 5,
        "metrics": METRICS,
        "deep_config": {"epochs": 15, "hidden": [32, 16], "latent": 6},
        "stat_config": {},
        "detection": {"budget": {"false_alarms_per_entity_day": 100}},
        **more,
    }


async def test_the_snippet_of_the_readme_finds_the_fault_and_names_the_metrics() -> None:
    detector = RealTimeAnomalyDetector(config())
    detector.fit(normal(2000, seed=1))

    results = [result async for result in detector.process_stream(as_stream(with_fault(seed=SEED)))]

    ends = [result.end_row for result in results]
    grid = {row for row in range(39, 1200) if (row + phase_of("stream")) % 5 == 0}
    assert grid <= set(ends)
    assert len(grid) < len(ends) < 1.3 * len(grid)  # and some early ones
    assert ends == sorted(set(ends))
    found = [result for result in results if result.is_anomaly]
    inside = [result for result in found if FAULT.start <= result.end_row < FAULT.stop + 40]
    assert inside, "the fault was missed"
    assert inside[0].end_row == FAULT.start, "such a jump is looked at in its first row"
    assert {metric.name for metric in inside[0].metrics[:2]} == {"latency", "errors"}
    assert {member.name for member in inside[0].members} == set(TrainingSettings().detectors)
    assert len(found) - len(inside) <= 3, "too many false alarms on a calm series"


async def test_rows_may_come_in_blocks_and_the_first_of_them_can_train() -> None:
    detector = RealTimeAnomalyDetector(config(learn_rows=2000))
    stream = as_stream(np.concatenate([normal(2000, seed=1), with_fault(seed=SEED)]), at_once=50)
    results = [result async for result in detector.process_stream(stream)]
    assert any(result.is_anomaly and FAULT.start <= result.end_row < FAULT.stop + 40 for result in results)


@pytest.mark.elasticsearch
async def test_alerts_are_stored_and_told(elasticsearch_url: str) -> None:
    prefix = "library-test"
    async with HttpReceiver() as slack:
        receiver = {"name": "slack", "type": "slack", "url": slack.url, "allow_http": True}
        route = {"receivers": ["slack"], "group_wait_seconds": 0.1, "group_interval_seconds": 0.1}
        alert_config = {
            "notification": {"receivers": [receiver], "routes": [route]},
            "storage": {"url": elasticsearch_url, "index_prefix": prefix},
        }
        detector = RealTimeAnomalyDetector(config(alert_config=alert_config))
        detector.fit(normal(2000, seed=1))
        async for _ in detector.process_stream(as_stream(with_fault(seed=SEED))):
            pass
        # Not only the first: a hundred false alarms a day are allowed here, and the quiet part may hold one.
        assert any("latency" in posted.body.decode() for posted in slack.accepted)

    history = AlertHistory(ElasticsearchSettings(url=elasticsearch_url, index_prefix=prefix))
    try:
        await history.refresh()
        stored = await history.find()
        assert [alert["tidewatch"]["status"] for alert in stored] == ["resolved"] * len(stored)
        assert any(set(alert["tidewatch"]["metric_names"][:2]) == {"latency", "errors"} for alert in stored)
    finally:
        await history.close()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"window": 3}, "'window'"), ({"window_size": -1}, "training.window"), ({"alert_config": {"slack": {}}}, "'slack'")],
)
def test_a_mistake_in_the_config_is_named(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        RealTimeAnomalyDetector(wrong)


QUICK = {"training": {"detectors": {"mahalanobis": 1.0}}, "window_size": 40, "stride": 5, "metrics": METRICS}
KEY = base64.b64encode(b"tidewatch:open-sesame").decode()


async def test_a_second_stream_continues_the_series() -> None:
    whole, halves = RealTimeAnomalyDetector(QUICK), RealTimeAnomalyDetector(QUICK)
    for detector in (whole, halves):
        detector.fit(normal(2000, seed=1))
    rows = with_fault(seed=SEED)
    middle = FAULT.start + 22  # in the fault, and in the middle of a stride

    expected = [(result.end_row, result.p) async for result in whole.process_stream(as_stream(rows))]
    first = [(result.end_row, result.p) async for result in halves.process_stream(as_stream(rows[:middle]))]
    second = [(result.end_row, result.p) async for result in halves.process_stream(as_stream(rows[middle:]))]

    assert first[-1][0] < middle <= second[0][0]
    assert first + second == expected


async def test_an_alert_of_the_first_stream_is_resolved_by_the_second() -> None:
    rows = with_fault(seed=SEED)
    async with HttpReceiver() as hook:
        receiver = {"name": "hook", "type": "webhook", "url": hook.url, "allow_http": True}
        route = {"receivers": ["hook"], "group_wait_seconds": 0.0, "group_interval_seconds": 0.0}
        alert_config = {"notification": {"receivers": [receiver], "routes": [route]}}
        detector = RealTimeAnomalyDetector({**QUICK, "alert_config": alert_config})
        detector.fit(normal(2000, seed=1))
        for part in (rows[: FAULT.start + 40], rows[FAULT.start + 40 :]):
            async for _ in detector.process_stream(as_stream(part)):
                pass
        told = [(alert["alert_id"], alert["status"]) for posted in hook.accepted for alert in posted.json()["alerts"]]
    assert {status for _, status in told} == {"firing", "resolved"}
    firing, resolved = ({alert_id for alert_id, status in told if status == kind} for kind in ("firing", "resolved"))
    assert firing == resolved


async def counted(
    rows: np.ndarray, taken: list[int], before: Mapping[int, Callable[[], Awaitable[None]]] | None = None
) -> AsyncIterator[np.ndarray]:
    """The rows; ``taken`` gets the number of each that is taken. ``before``: what is awaited before a row is given."""
    for number, row in enumerate(rows):
        if before and number in before:
            await before[number]()
        taken.append(number)
        yield row


@pytest.fixture
async def guarded(elasticsearch_url: str, tmp_path: Path) -> AsyncIterator[Proxy]:
    """A real Elasticsearch behind TLS that wants ``KEY``."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with tls_proxy(authority, elasticsearch_url, f"ApiKey {KEY}") as proxy:
        yield proxy


def storage(proxy: Proxy, folder: Path, key: str = KEY) -> dict[str, Any]:
    place = {"url": f"https://127.0.0.1:{proxy.port}", "index_prefix": f"library-{uuid.uuid4().hex[:8]}"}
    return {**place, "ca_file": str(folder / "ca.pem"), "api_key": key, "request_timeout_seconds": 2.0}


@pytest.mark.elasticsearch
async def test_a_wrong_key_is_refused_before_a_row_is_taken(guarded: Proxy, tmp_path: Path) -> None:
    detector = RealTimeAnomalyDetector({**QUICK, "alert_config": {"storage": storage(guarded, tmp_path, key="d3Jvbmc=")}})
    detector.fit(normal(2000, seed=1))
    taken: list[int] = []
    with pytest.raises(ConfigError, match=r"refuses these credentials \(401\)"):
        async for _ in detector.process_stream(counted(with_fault(seed=SEED), taken)):
            pass
    assert taken == []


@pytest.mark.elasticsearch
async def test_a_key_that_is_refused_for_a_while_costs_no_alert_and_is_logged_once(
    guarded: Proxy, tmp_path: Path, elasticsearch_url: str
) -> None:
    where = storage(guarded, tmp_path)
    detector = RealTimeAnomalyDetector({**QUICK, "alert_config": {"storage": where}})
    detector.fit(normal(2000, seed=1))

    async def refuse() -> None:
        guarded.seen.clear()
        guarded.authorization = "ApiKey another"

    async def accept() -> None:
        async with asyncio.timeout(20):
            while len(guarded.seen) < 2:  # refused twice: once more than is logged
                await asyncio.sleep(0.05)
        guarded.authorization = f"ApiKey {KEY}"

    before = {FAULT.start - 50: refuse, FAULT.stop + 200: accept}
    with structlog.testing.capture_logs() as logs:
        async for _ in detector.process_stream(counted(with_fault(seed=SEED), [], before)):
            pass
    history = AlertHistory(ElasticsearchSettings(url=elasticsearch_url, index_prefix=where["index_prefix"]))
    try:
        await history.refresh()
        stored = await history.find()
    finally:
        await history.close()
    assert any(set(alert["tidewatch"]["metric_names"][:2]) == {"latency", "errors"} for alert in stored)
    told = [log for log in logs if "(401)" in json.dumps(log, default=str)]
    assert len(told) == 1, told


async def test_the_library_reads_its_own_mapping_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with HttpReceiver() as hook:
        receiver = {"name": "hook", "type": "webhook", "url": hook.url, "allow_http": True}
        file = tmp_path / "tidewatch.yaml"
        file.write_text(json.dumps({"notifications": {"receivers": [receiver]}}))
        monkeypatch.setenv("TIDEWATCH_CONFIG", str(file))
        monkeypatch.setenv("TIDEWATCH_TRAINING__WINDOW", "7")
        detector = RealTimeAnomalyDetector({key: value for key, value in QUICK.items() if key != "window_size"})
        bundle = detector.fit(normal(2000, seed=1))
        async for _ in detector.process_stream(as_stream(with_fault(seed=SEED))):
            pass
        assert hook.accepted == []
    assert bundle.window == 100
