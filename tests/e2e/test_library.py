"""The library form, as the README shows it: no Kafka, a plain dict, an async iterator of arrays."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from service import RealTimeAnomalyDetector
from service.alerts.history.reader import AlertHistory
from service.demo.receivers import HttpReceiver
from service.domain import phase_of
from service.errors import ConfigError
from service.settings import ElasticsearchSettings
from tests.e2e.series import FAULT, METRICS, normal, with_fault

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
    assert {member.name for member in inside[0].members} == {"deep", "statistical"}
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
