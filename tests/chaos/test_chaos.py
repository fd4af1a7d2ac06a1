"""A short chaos run, and that its judge finds every kind of deviation."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.harness import Chaos
from tests.chaos.judge import judge
from tests.chaos.oracle import Expected

ALERT = "a" * 32
LIFE = [("opened", "info", "pending"), ("fired", "warning", "firing"), ("resolved", "warning", "resolved")]


@pytest.mark.kafka
@pytest.mark.elasticsearch
@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_twenty_kills_lose_nothing_and_double_nothing(tmp_path: Path, kafka_servers: str) -> None:
    # kafka_servers is asked for only so that this is skipped where no servers can be had; the run starts its own.
    report = await Chaos(tmp_path, seed=20, kills=20, say=print).run()
    assert report.verdict.wrong
    assert report.good, "\n".join([str(report.verdict.wrong), *report.verdict.examples])
    assert report.kills >= 20
    assert len(report.faults) >= 10


def outcome() -> dict[str, Any]:
    """A run in which everything is right."""
    transitions = [(ALERT, seq, action, severity) for seq, (action, severity, _) in enumerate(LIFE, 1)]
    emitted = [
        {"alert_id": ALERT, "seq": seq, "action": action, "severity": severity, "entity": "host-1"}
        for seq, (action, severity, _) in enumerate(LIFE, 1)
    ]
    told = [(f"key-{status}", {"alert_id": ALERT, "status": status}) for _, _, status in LIFE[1:]]
    return {
        "expected": Expected(transitions=transitions, refused={(0, 7)}),
        "emitted": emitted,
        "dead": Counter({(0, 7): 1}),
        "stored": ({ALERT: 3}, Counter({f"{ALERT}-{seq}": 1 for seq in (1, 2, 3)})),
        "messages": told,
    }


def test_a_run_in_which_everything_is_right_is_good() -> None:
    right = outcome()
    assert judge(**right).good
    right["messages"].append(right["messages"][0])  # the receiver drops what came under the same key
    assert judge(**right).good


def test_one_thing_wrong_is_seen() -> None:
    def wrong(**changes: Any) -> dict[str, int]:
        found = judge(**{**outcome(), **changes})
        assert not found.good
        return {what: count for what, count in found.wrong.items() if count}

    right = outcome()
    assert wrong(emitted=right["emitted"][:-1]) == {"transitions lost": 1}
    assert wrong(emitted=[*right["emitted"], right["emitted"][0]]) == {"transitions doubled or invented": 1}
    assert wrong(dead=Counter()) == {"dead letters lost": 1}
    assert wrong(dead=Counter({(0, 7): 2})) == {"dead letters doubled or invented": 1}
    assert wrong(stored=({ALERT: 2}, right["stored"][1])) == {"alerts stored lost": 1, "alerts stored doubled or invented": 1}
    assert wrong(stored=({}, right["stored"][1])) == {"alerts stored lost": 1}
    assert wrong(messages=right["messages"][:1]) == {"notifications lost": 1}
    assert wrong(messages=[]) == {"notifications lost": 1}
    again = ("another-key", right["messages"][1][1])
    assert wrong(messages=[*right["messages"], again]) == {"notifications doubled or invented": 2}
    stranger = ("third-key", {"alert_id": "b" * 32, "status": "firing"})
    assert wrong(messages=[*right["messages"], stranger]) == {"notifications doubled or invented": 1}
