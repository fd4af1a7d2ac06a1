"""Acknowledgements: once each, whenever they come, and never kept for good."""

from __future__ import annotations

from service.alerts.control.commands import Acknowledge, ExpireSilence
from service.alerts.lifecycle.acknowledgements import MOST_WAITING, Acknowledgements
from service.alerts.lifecycle.episodes import Episodes
from service.clock import ManualClock
from service.domain import Status
from service.settings import EpisodeSettings
from tests.alerts.makers import BORN, drawn

HOUR_MS = 3_600_000


def made() -> tuple[Episodes, Acknowledgements, ManualClock]:
    episodes, clock = Episodes(EpisodeSettings()), ManualClock(BORN * 1000)
    return episodes, Acknowledgements(episodes, clock=clock, lifetime_ms=HOUR_MS), clock


def said(alert_id: str, author: str = "Ada", at: int = BORN * 1000) -> Acknowledge:
    return Acknowledge(id=f"{author}-{at}", alert_id=alert_id, entity="db-7", author=author, at=at, note="on it")


def test_an_open_alert_is_taken_once_by_the_first_who_said_so() -> None:
    episodes, acknowledgements, _ = made()
    fired = episodes.observe(drawn("..cc"))[-1]
    acknowledgements.receive([said(fired.alert_id), said(fired.alert_id, "Bob")])
    (taken,) = acknowledgements.apply()
    assert (taken.action, taken.seq, taken.status) == ("acknowledged", fired.seq + 1, Status.FIRING)
    assert (taken.acknowledged_by, taken.reason) == ("Ada", "acknowledged by Ada: on it")
    assert acknowledgements.apply() == []
    acknowledgements.receive([said(fired.alert_id)])  # read again after a restart
    assert acknowledgements.apply() == []
    resolved = episodes.observe(drawn("..cc......"))[-1]
    assert (resolved.status, resolved.acknowledged_by, resolved.seq) == (Status.RESOLVED, "Ada", taken.seq + 1)


def test_one_that_comes_before_its_alert_is_restored_waits_for_it() -> None:
    first, _, _ = made()
    fired = first.observe(drawn("..cc"))[-1]
    episodes, acknowledgements, _ = made()
    acknowledgements.receive([said(fired.alert_id)])
    assert acknowledgements.apply() == []
    episodes.restore(first.snapshot())
    assert [alert.alert_id for alert in acknowledgements.apply()] == [fired.alert_id]


def test_one_for_another_worker_is_forgotten_after_a_while_and_old_ones_are_not_even_kept() -> None:
    first, _, _ = made()
    fired = first.observe(drawn("..cc"))[-1]
    episodes, acknowledgements, clock = made()
    acknowledgements.receive([said(fired.alert_id)])
    clock.advance(3601)
    assert acknowledgements.apply() == []
    acknowledgements.receive([said(fired.alert_id)])
    episodes.restore(first.snapshot())
    assert acknowledgements.apply() == []


def test_however_many_come_only_so_many_wait_and_other_words_are_not_its_business() -> None:
    _, acknowledgements, _ = made()
    acknowledgements.receive([ExpireSilence(id="x", silence_id="s", author="Ada", at=BORN * 1000)])
    assert not acknowledgements._waiting
    acknowledgements.receive(said(f"alert-{n}") for n in range(MOST_WAITING + 50))
    assert len(acknowledgements._waiting) == MOST_WAITING
    assert "alert-49" not in acknowledgements._waiting
