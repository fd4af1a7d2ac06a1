"""Verdicts as columns."""

from __future__ import annotations

import pytest

from service.alerts.lifecycle.episodes import Episodes
from service.domain import Verdict
from service.settings import EpisodeSettings
from service.verdicts import Verdicts
from tests.alerts.makers import verdict


def lazily(made: list[Verdict]) -> tuple[Verdicts, list[int]]:
    """The same verdicts, and which of them were asked for."""
    asked: list[int] = []

    def make(at: int) -> Verdict:
        asked.append(at)
        return made[at]

    ready = Verdicts.of(made)
    return Verdicts(ready.entities, ready.ends_ms, ready.partitions, ready.within_level, make), asked


def some() -> list[Verdict]:
    """Two entities on two partitions; one is anomalous from its third window on."""
    calm = [verdict(slot, 0.05, entity="calm", partition=1) for slot in range(8)]
    loud = [verdict(slot, 0.95 if 2 <= slot < 5 else 0.05, entity="loud", partition=0) for slot in range(8)]
    return [one for pair in zip(calm, loud, strict=True) for one in pair]


def test_they_are_the_verdicts_they_are_made_of() -> None:
    made = some()
    verdicts, _ = lazily(made)
    assert list(verdicts) == made
    assert verdicts[-1] == made[-1]
    assert verdicts[2:5] == made[2:5]
    assert list(verdicts.notable()) == [one for one in made if one.is_anomaly]
    with pytest.raises(IndexError):
        verdicts[len(made)]


def test_by_partition_keeps_the_order_and_loses_nothing() -> None:
    made = some()
    parts = Verdicts.of(made).by_partition()
    assert {partition: list(part) for partition, part in parts.items()} == {
        at: [one for one in made if one.partition == at] for at in (0, 1)
    }
    assert list(parts[0].notable()) == [one for one in made if one.is_anomaly]


def test_episodes_ask_for_what_they_need_and_come_to_the_same() -> None:
    made = some()
    verdicts, asked = lazily(made)
    lazy, eager = Episodes(EpisodeSettings()), Episodes(EpisodeSettings())
    transitions = lazy.observe(verdicts)
    assert [one.action for one in transitions][:2] == ["opened", "fired"]
    one_by_one = [alert for each in made for alert in eager.observe([each])]
    assert transitions == one_by_one
    assert lazy.snapshot() == eager.snapshot()
    assert {made[at].entity for at in asked} == {"loud"}
    assert min(asked) == next(at for at, one in enumerate(made) if one.is_anomaly)
