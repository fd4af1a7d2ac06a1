"""Reads the results and compares them with the expected ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from service.settings import Settings
from tests.chaos.oracle import Expected


@dataclass
class Verdict:
    """Deviations by kind, with a few examples of each."""

    found: dict[str, int] = field(default_factory=dict)
    wrong: dict[str, int] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)

    def compare(self, what: str, expected: Counter[Any], found: Counter[Any]) -> None:
        """Count what is missing and what is there too often."""
        missing, extra = expected - found, found - expected
        self.found[what] = found.total()
        self.wrong[f"{what} lost"] = missing.total()
        self.wrong[f"{what} doubled or invented"] = extra.total()
        self.examples += [f"{what} lost: {one}" for one in sorted(missing)[:5]]
        self.examples += [f"{what} extra: {one}" for one in sorted(extra)[:5]]

    @property
    def good(self) -> bool:
        """Nothing lost, nothing twice."""
        return not any(self.wrong.values())


async def read_topic(servers: str, topic: str) -> dict[int, list[Any]]:
    """Every committed record, by partition."""
    consumer: Any = AIOKafkaConsumer(bootstrap_servers=servers, isolation_level="read_committed", auto_offset_reset="earliest")
    await consumer.start()
    try:
        await consumer._client.force_metadata_update()
        await consumer._client._wait_on_metadata(topic)
        tps = [TopicPartition(topic, at) for at in sorted(consumer.partitions_for_topic(topic))]
        end = await consumer.end_offsets(tps)
        consumer.assign(tps)
        found: dict[int, list[Any]] = {tp.partition: [] for tp in tps}
        for tp in tps:
            while await consumer.position(tp) < end[tp]:
                found[tp.partition] += (await consumer.getmany(tp, timeout_ms=200)).get(tp, [])
        return found
    finally:
        await consumer.stop()


class Results:
    """The three places where results arrive."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._servers = settings.kafka.bootstrap_servers
        self._elastic = settings.elasticsearch

    async def emitted(self) -> list[dict[str, Any]]:
        """Transitions in the alerts topic, in order."""
        records = (await read_topic(self._servers, self._settings.kafka.topics.alerts))[0]
        return [msgspec.json.decode(record.value) for record in records]

    async def dead(self) -> Counter[tuple[int, int]]:
        """(partition, offset) of every dead letter."""
        found: Counter[tuple[int, int]] = Counter()
        for records in (await read_topic(self._servers, self._settings.kafka.topics.dead_letter)).values():
            for record in records:
                told = dict(record.headers)
                found[int(told["__streams.errors.partition"]), int(told["__streams.errors.offset"])] += 1
        return found

    async def stored(self) -> tuple[dict[str, int], Counter[str]]:
        """Alert documents with their version, and event documents."""
        prefix = self._elastic.index_prefix
        async with httpx.AsyncClient(base_url=self._elastic.url, timeout=30) as client:
            await client.post(f"/{prefix}-alerts-*,{prefix}-alert-events-*/_refresh")
            alerts = await _everything(client, f"{prefix}-alerts-*")
            events = await _everything(client, f"{prefix}-alert-events-*")
        return {hit["_id"]: int(hit["_version"]) for hit in alerts}, Counter(hit["_id"] for hit in events)


async def _everything(client: httpx.AsyncClient, index: str) -> list[dict[str, Any]]:
    hits: list[dict[str, Any]] = []
    after: list[Any] | None = None
    while True:
        order = [{"tidewatch.alert_id": "asc"}, {"event.sequence": "asc"}]
        body: dict[str, Any] = {"size": 5000, "version": True, "_source": False, "sort": order}
        if after is not None:
            body["search_after"] = after
        answer = await client.post(f"/{index}/_search", json=body)
        answer.raise_for_status()
        page = answer.json()["hits"]["hits"]
        hits += page
        if len(page) < 5000:
            return hits
        after = page[-1]["sort"]


def judge(
    expected: Expected,
    emitted: Sequence[dict[str, Any]],
    dead: Counter[tuple[int, int]],
    stored: tuple[dict[str, int], Counter[str]],
    messages: Sequence[tuple[str, dict[str, Any]]],
) -> Verdict:
    """``messages``: (idempotency key, alert) of every request the receiver answered, in order."""
    verdict = Verdict()
    out = expected.left_out
    told = [one for one in emitted if one["entity"] not in out]
    skipped = {one["alert_id"] for one in emitted if one["entity"] in out}
    found = Counter((one["alert_id"], one["seq"], one["action"], one["severity"]) for one in told)
    verdict.compare("transitions", Counter(expected.transitions), found)
    verdict.compare("dead letters", Counter(expected.refused), dead)
    newest: dict[str, int] = {}
    for number, seq, *_ in expected.transitions:
        newest[number] = max(seq, newest.get(number, 0))
    documents, events = stored
    kept = {number: version for number, version in documents.items() if number not in skipped}
    verdict.compare("alerts stored", Counter(newest.items()), Counter(kept.items()))
    wanted = Counter(f"{number}-{seq}" for number, seq, *_ in expected.transitions)
    judged = Counter({name: count for name, count in events.items() if name.rsplit("-", 1)[0] not in skipped})
    verdict.compare("events stored", wanted, judged)
    _judge_messages(verdict, expected, skipped, messages)
    return verdict


def _judge_messages(
    verdict: Verdict, expected: Expected, skipped: set[str], messages: Sequence[tuple[str, dict[str, Any]]]
) -> None:
    """Every alert that fired is notified as firing and then as resolved, or only as resolved when it was that short. The receiver
    drops messages with a key it has seen."""
    actions: dict[str, list[str]] = {}
    for number, _, action, _ in expected.transitions:
        actions.setdefault(number, []).append(action)
    seen: set[str] = set()
    heard: dict[str, list[str]] = {}
    repeated = 0
    for key, alert in messages:
        if key in seen:
            repeated += 1
            continue
        seen.add(key)
        if alert["alert_id"] not in skipped:
            heard.setdefault(alert["alert_id"], []).append(alert["status"])
    lost = extra = 0
    for number, did in actions.items():
        said = heard.pop(number, [])
        if "fired" not in did:
            extra += len(said)
        elif not said or (did[-1] == "resolved" and said[-1] != "resolved"):
            lost += 1
            verdict.examples.append(f"notification lost: {number} {did} {said}")
        else:
            most = 1 + did.count("raised") + did.count("widened")
            firing, over = said.count("firing"), said.count("resolved")
            surplus = max(0, firing - most) + max(0, over - 1) + ("resolved" in said[:-1])
            extra += surplus
            if surplus:
                verdict.examples.append(f"notification doubled: {number} {did} {said}")
    for number, said in heard.items():
        extra += len(said)
        verdict.examples.append(f"notification of nothing: {number} {said}")
    verdict.found["notifications"] = len(seen)
    verdict.found["sent again under the same key"] = repeated
    verdict.wrong["notifications lost"] = lost
    verdict.wrong["notifications doubled or invented"] = extra
