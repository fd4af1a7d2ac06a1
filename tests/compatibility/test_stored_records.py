"""Records that were written before the modules moved and their classes were renamed are read as what they were.

``written_before_the_moves.json`` was made by the code of commit ``e3544b3``: base64 of record values, by kind.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from service.alerts.control.commands import decode, encode, encode_key
from service.alerts.data_health.alerts import CheckState, DataHealth
from service.alerts.lifecycle.episode import EpisodeState
from service.alerts.lifecycle.episodes import Episodes
from service.alerts.topics import deliveries
from service.alerts.topics.transitions import decode_transition, encode_transition
from service.domain import Status
from service.settings import DataHealthSettings, EpisodeSettings
from service.state.entity_records import EntityRecords
from service.state.health_topic import read_report
from tests.alerts.makers import drawn, life

WRITTEN: dict[str, Any] = json.loads((Path(__file__).parent / "written_before_the_moves.json").read_text(encoding="utf-8"))


def values(kind: str) -> list[bytes]:
    held = WRITTEN[kind]
    return [
        base64.b64decode(value)
        for value in (held.values() if isinstance(held, dict) else [held] if isinstance(held, str) else held)
    ]


# What claims followed from before decision 0021; an open alert goes on with claims as calibrated.
NO_LONGER = {"[1].shift", "[1].common"}


def assert_kept(before: Any, now: Any, where: str = "") -> None:
    """Everything that was written is written again, under the same names; new fields may stand beside it."""
    if isinstance(before, Mapping):
        assert isinstance(now, Mapping), where
        for name, value in before.items():
            if f"{where}.{name}" in NO_LONGER:
                continue
            assert name in now, f"{where}.{name} is written under another name, so what it held is not read"
            assert_kept(value, now[name], f"{where}.{name}")
    elif isinstance(before, list):
        assert len(now) >= len(before), where
        for at, value in enumerate(before):
            assert_kept(value, now[at], f"{where}[{at}]")
    else:
        assert now == before, where


def test_alerts_are_read() -> None:
    read = [decode_transition(value) for value in values("alerts")]
    assert read == life("db-7")
    for value, alert in zip(values("alerts"), read, strict=True):
        assert_kept(json.loads(value), json.loads(encode_transition(alert)[1]))


def test_deliveries_are_read() -> None:
    read = [deliveries.decode(value) for value in values("deliveries")]
    assert [(each.receiver, each.state, each.attempts) for each in read] == [("mail", "owed", 2), ("slack", "sent", 0)]
    for value, delivery in zip(values("deliveries"), read, strict=True):
        assert_kept(json.loads(value), json.loads(deliveries.encode(delivery)))


def test_commands_are_read_and_keep_their_keys() -> None:
    assert len(WRITTEN["commands"]) == 4  # one of each kind
    for key, value in WRITTEN["commands"]:
        command = decode(base64.b64decode(value))
        assert encode_key(command).decode() == key
        assert_kept(json.loads(base64.b64decode(value)), json.loads(encode(command)))


def test_the_open_episode_in_an_entity_s_state_is_read_and_goes_on() -> None:
    records = {key.encode(): base64.b64decode(value) for key, value in WRITTEN["entity_state"].items()}
    (encoded,) = EntityRecords().load(0, records).values()
    before = msgspec.msgpack.decode(encoded)[3]
    state = msgspec.convert(before, EpisodeState)
    assert_kept(before, msgspec.to_builtins(state))
    episodes = Episodes(EpisodeSettings(), "0123456789ab")
    episodes.restore({"db-7": state})
    (alert,) = episodes.open_alerts()
    assert (alert.action, alert.reason, alert.windows) == ("fired", "critical score 0.95", 3)
    through = Episodes(EpisodeSettings(), "0123456789ab")  # one that never stopped
    through.observe(drawn("..ccw"))
    rest = drawn("..ccw.......")[5:]
    # An alert keeps what was known of it when it was stored, by what scores meant then; everything else is the same.
    stored = {"interval_ms": 0, "resolve_after_ms": 0, "peak_score": alert.peak_score, "every_days": 0.0, "metrics_at": 0}
    assert episodes.observe(rest) == [msgspec.structs.replace(each, **stored) for each in through.observe(rest)]
    assert episodes.open_alerts() == []


def test_what_data_health_found_is_read() -> None:
    records = {key.encode(): base64.b64decode(value) for key, value in WRITTEN["data_health"].items()}
    for value in records.values():
        assert_kept(msgspec.msgpack.decode(value), msgspec.to_builtins(msgspec.msgpack.decode(value, type=CheckState)))
    found = DataHealth(DataHealthSettings(fire_after=2), "metrics")
    found.restore(records)
    (alert,) = found.open_alerts()
    assert (alert.status, alert.labels, alert.started_at) == (Status.FIRING, {"check": "lag"}, 1000)


@pytest.mark.parametrize("value", values("health_report"))
def test_reports_on_the_data_are_read(value: bytes) -> None:
    report = read_report(value, "metrics")
    assert report is not None
    assert [each.entity for each in (*report.silent.named, *report.still.named, *report.forgotten)] == ["db-7", "db-8", "db-9"]
    assert_kept(json.loads(value), json.loads(msgspec.json.encode(report)))
