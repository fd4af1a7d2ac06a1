"""Alerts and dead letters reach Kafka before the offsets are committed, in order, also across a restart of the broker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import pytest

from service.domain import Alert, Record, Rejected, Severity, Status
from service.errors import BrokerUnavailable, ConfigError
from service.kafka_options import Commit
from service.local.stack import LocalStack
from service.settings import Settings
from service.state import transactions
from service.state.dead_letter import TRUNCATED
from service.state.topics import create_topics
from service.state.transactions import AtLeastOnceOutbox
from tests.sources.rig import kafka_settings, read_all

pytestmark = pytest.mark.kafka


def alert(seq: int) -> Alert:
    return Alert(
        alert_id="a" * 32, seq=seq, action="updated", reason="still unusual", entity="host-1", status=Status.FIRING,
        severity=Severity.INFO, peak_severity=Severity.INFO, started_at=1, updated_at=seq, score=0.5, peak_score=0.5, p=0.001,
        peak_p=0.001,
    )  # fmt: skip


def refused(offset: int, value: bytes, partition: int = 0) -> Rejected:
    return Rejected(Record("metrics", partition, offset, 0, b"host-1", value), "not-json", "The message is not JSON.")


class Commits:
    """Stands for the source's commit; fails as often as told."""

    def __init__(self, failures: int = 0) -> None:
        self.seen: list[Mapping[int, Commit]] = []
        self.failures = failures

    async def __call__(self, offsets: Mapping[int, Commit]) -> None:
        if self.failures:
            self.failures -= 1
            raise BrokerUnavailable("Kafka takes no commits.")
        self.seen.append(offsets)


async def opened(settings: Settings, commits: Commits) -> AtLeastOnceOutbox:
    await create_topics(settings.kafka)
    outbox = AtLeastOnceOutbox(settings.kafka, commit=commits)
    await outbox.start()
    return outbox


async def sequence(servers: str, settings: Settings) -> Sequence[int]:
    return [msgspec.json.decode(one.value or b"", type=Alert).seq for one in await read_all(servers, settings.kafka.topics.alerts)]


async def test_alerts_and_letters_are_written_in_order_and_then_committed(kafka_servers: str) -> None:
    settings, commits = kafka_settings(kafka_servers, partitions=2), Commits()
    outbox = await opened(settings, commits)
    try:
        many = range(1, 1201)  # more than are on their way at once
        letters = [refused(at, b"?" * at, partition=at % 3) for at in range(6)]
        await outbox.emit(alerts=[alert(seq) for seq in many], rejected=letters, offsets={0: Commit(9, 4)})
        assert commits.seen == [{0: Commit(9, 4)}]
        written = await read_all(kafka_servers, settings.kafka.topics.alerts)
        assert [msgspec.json.decode(one.value or b"", type=Alert) for one in written] == [alert(seq) for seq in many]
        assert {(one.partition, one.key) for one in written} == {(0, b"a" * 32)}
        dead = await read_all(kafka_servers, settings.kafka.topics.dead_letter)
        assert sorted((one.partition, one.value) for one in dead) == sorted((at % 3 % 2, b"?" * at) for at in range(6))
    finally:
        await outbox.close()


async def test_a_commit_is_tried_until_kafka_takes_it(kafka_servers: str) -> None:
    settings, commits = kafka_settings(kafka_servers), Commits(failures=3)
    outbox = await opened(settings, commits)
    try:
        await outbox.emit(alerts=[alert(1)], rejected=[], offsets={0: Commit(1)})
        assert commits.seen == [{0: Commit(1)}]
        assert await sequence(kafka_servers, settings) == [1]
    finally:
        await outbox.close()


async def test_a_letter_larger_than_the_topic_takes_is_cut(kafka_servers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = kafka_settings(kafka_servers)
    outbox = await opened(settings, Commits())
    monkeypatch.setattr(transactions, "LARGEST_REQUEST", 1 << 20)
    try:
        await outbox.emit(alerts=[], rejected=[refused(0, b"x" * (2 << 20))], offsets={})
        (letter,) = await read_all(kafka_servers, settings.kafka.topics.dead_letter)
        assert dict(letter.headers)[TRUNCATED] == str(2 << 20).encode()
    finally:
        await outbox.close()


async def test_missing_topics_are_told_at_the_start(kafka_servers: str) -> None:
    outbox = AtLeastOnceOutbox(kafka_settings(kafka_servers).kafka, commit=Commits())
    with pytest.raises(ConfigError, match="does not exist") as error:
        await outbox.start()
    assert "tidewatch setup" in error.value.hint
    await outbox.close()


@pytest.fixture
def own_stack(tmp_path: Any, kafka_servers: str) -> Iterator[LocalStack]:  # kafka_servers: skips where no Kafka can be had
    stack = LocalStack(tmp_path)
    stack.start_kafka()
    yield stack
    stack.down()


@pytest.mark.slow
async def test_an_outage_is_waited_out_and_nothing_is_lost_or_reordered(own_stack: LocalStack) -> None:
    servers = own_stack.kafka_servers
    settings, commits = kafka_settings(servers, request_timeout_seconds=3.0), Commits()
    outbox = await opened(settings, commits)
    try:
        await outbox.emit(alerts=[alert(1)], rejected=[], offsets={0: Commit(1)})
        await asyncio.to_thread(own_stack.stop_kafka, kill=True)
        waiting = asyncio.create_task(
            outbox.emit(alerts=[alert(seq) for seq in range(2, 30)], rejected=[refused(0, b"?")], offsets={0: Commit(2)})
        )
        await asyncio.sleep(8)
        assert not waiting.done()
        assert commits.seen == [{0: Commit(1)}]
        await asyncio.to_thread(own_stack.start_kafka)
        await asyncio.wait_for(waiting, 60)
        await outbox.emit(alerts=[alert(30)], rejected=[], offsets={0: Commit(3)})
        assert [one[0].offset for one in commits.seen] == [1, 2, 3]
        got = await sequence(servers, settings)
        assert set(got) == set(range(1, 31))
        # A try that was cut off may have arrived: what is written again is the whole rest, in order.
        restarts = [at for at in range(1, len(got)) if got[at] != got[at - 1] + 1]
        assert all(got[at] < got[at - 1] + 1 for at in restarts)
        assert got[-1] == 30
    finally:
        await outbox.close()
