"""``tidewatch dead-letter`` on a real Kafka: counted by reason, shown whole, written back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from service.alerts.topics.transitions import encode_transition
from service.domain import Record, Rejected
from service.state.topics import create_topics
from service.state.transactions import PartitionOutcome, TransactionalOutbox
from tests.sources.rig import kafka_settings, message, read_all
from tests.state.test_outbox import refused
from tests.test_cli import tidewatch

pytestmark = pytest.mark.kafka


async def test_dead_letters_are_counted_shown_and_written_back(kafka_servers: str, tmp_path: Path) -> None:
    settings = kafka_settings(kafka_servers, partitions=2)
    topics = settings.kafka.topics
    await create_topics(settings.kafka)
    outbox = TransactionalOutbox(settings.kafka, encode=encode_transition)
    await outbox.start()
    await outbox.take_over([0, 1])
    good = message("host-9", 3)
    letters = [refused(41, b"\xffnot json"), refused(42, b"?"), refused(7, good.value, partition=1)]
    for at, letter in enumerate(letters):
        record = letter.record
        letters[at] = type(letter)(
            type(record)(
                topics.metrics,
                record.partition,
                record.offset,
                0,
                b"host-9" if at == 2 else record.key,
                record.value,
                (("trace", b"x"),),
            ),
            "unknown-entity" if at == 2 else letter.reason,
            letter.message,
        )
    assert await outbox.emit({0: PartitionOutcome(rejected=letters[:2]), 1: PartitionOutcome(rejected=letters[2:])}) == set()
    await outbox.close()
    config = tmp_path / "tidewatch.yaml"
    config.write_text(yaml.safe_dump({"kafka": settings.kafka.model_dump(exclude_none=True, mode="json")}))

    def asked(*words: str) -> str:
        done = tidewatch("dead-letter", *words, "--config", str(config), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    told = json.loads(asked("list", "--json"))
    assert told["count"] == {"not-json": 2, "unknown-entity": 1}
    assert {(one["from"], one["key"]) for one in told["letters"]} == {
        (f"{topics.metrics} 0:41", "host-1"),
        (f"{topics.metrics} 0:42", "host-1"),
        (f"{topics.metrics} 1:7", "host-9"),
    }
    assert json.loads(asked("list", "--json", "--reason", "unknown-*"))["count"] == {"unknown-entity": 1}
    assert "not-json" in asked("list", "--key", "host-1")
    at = next(one["at"] for one in told["letters"] if one["from"].endswith(" 0:41"))
    assert json.loads(asked("show", at, "--json"))["value"] == "\\xffnot json"
    assert tidewatch("dead-letter", "show", "0:999", "--config", str(config), cwd=tmp_path).returncode == 2

    assert "1 messages would be written back" in asked("replay", "--reason", "unknown-entity")
    assert await read_all(kafka_servers, topics.metrics) == []
    assert "Wrote 1 messages back" in asked("replay", "--reason", "unknown-entity", "--yes")
    (back,) = await read_all(kafka_servers, topics.metrics)
    assert (back.partition, back.key, back.value, back.headers) == (1, b"host-9", good.value, (("trace", b"x"),))


async def test_what_a_producer_sent_controls_no_terminal(kafka_servers: str, tmp_path: Path) -> None:
    settings = kafka_settings(kafka_servers, partitions=1)
    await create_topics(settings.kafka)
    outbox = TransactionalOutbox(settings.kafka, encode=encode_transition)
    await outbox.start()
    await outbox.take_over([0])
    record = Record(settings.kafka.topics.metrics, 0, 3, 0, b"\x1b[2J[/evil]", b"\x1b]0;owned\x07\nreason: fine", ())
    letter = Rejected(record, "not-json", "\x1b[1mmade up\x1b[0m [/evil]")
    assert await outbox.emit({0: PartitionOutcome(rejected=[letter])}) == set()
    await outbox.close()
    config = tmp_path / "tidewatch.yaml"
    config.write_text(yaml.safe_dump({"kafka": settings.kafka.model_dump(exclude_none=True, mode="json")}))

    listed = tidewatch("dead-letter", "list", "--config", str(config), cwd=tmp_path, COLUMNS="300")
    assert r"\x1b[2J[/evil]" in listed.stdout
    assert r"\x1b[1mmade up\x1b[0m [/evil]" in listed.stdout
    shown = tidewatch("dead-letter", "show", "0:0", "--config", str(config), cwd=tmp_path, COLUMNS="300")
    assert r"value: \x1b]0;owned\x07\nreason: fine" in shown.stdout
    for done in (listed, shown):
        assert done.returncode == 0, done.stderr
        assert "\x1b" not in done.stdout
        assert "\x07" not in done.stdout
