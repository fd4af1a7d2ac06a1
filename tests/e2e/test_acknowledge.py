"""An acknowledgement, from a person's word to the history: the worker that owns the alert makes it a transition."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from service.alerts.history.reader import AlertHistory
from service.app import build_operators
from service.demo.receivers import HttpReceiver, MailReceiver
from service.demo.service import ServiceProcess
from service.domain import Dataset, Series
from service.sources.replay import replay
from tests.e2e.series import FAULT
from tests.e2e.test_whole_path import Rig, generated

pytestmark = [pytest.mark.kafka, pytest.mark.elasticsearch, pytest.mark.slow, pytest.mark.timeout(300)]


async def found(history: AlertHistory, seconds: float, **wanted: Any) -> dict[str, Any]:
    """The newest alert document that has these fields under ``tidewatch``, once there is one."""
    async with asyncio.timeout(seconds):
        while True:
            await history.refresh()
            for each in await history.find(told_only=True):
                if all(each["tidewatch"][name] == value for name, value in wanted.items()):
                    return each
            await asyncio.sleep(0.3)


async def test_an_open_alert_is_taken_and_stays_taken(tmp_path: Path, kafka_servers: str, elasticsearch_url: str) -> None:
    past, coming = generated()
    until = FAULT.start + 40  # in the middle of the fault, so that its alert stays open
    unfinished = Dataset(coming.schema, [Series("db-7", 0, coming.series[0].values[:until])])
    async with HttpReceiver() as slack, MailReceiver() as inbox:
        rig = Rig(tmp_path, kafka_servers, elasticsearch_url, slack, inbox)
        await rig.prepare()
        await asyncio.to_thread(rig.train, past)
        history = AlertHistory(rig.settings.elasticsearch)
        operators = build_operators(rig.settings, history)
        async with ServiceProcess(rig.config, tmp_path) as service:
            await service.ready(180)
            await replay(unfinished, rig.settings.kafka, rebase=True)
            firing = await found(history, 60, status="firing")
            alert_id = firing["tidewatch"]["alert_id"]
            await operators.acknowledge(alert_id, author="Ada", note="on it")
            taken = await found(history, 60, alert_id=alert_id, acknowledged_by="Ada")
            assert taken["tidewatch"]["status"] == "firing"
            shown = await history.show(alert_id)
            assert shown is not None
            events = [event["event"]["action"] for event in shown.events]
            assert events.count("acknowledged") == 1
            assert shown.events[-1]["event"]["reason"] == "acknowledged by Ada: on it"
        await history.close()
