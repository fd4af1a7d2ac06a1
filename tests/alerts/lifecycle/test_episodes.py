"""The life of an alert, drawn: one character is one window (see ``makers.drawn``)."""

from __future__ import annotations

import itertools
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.alerts.lifecycle.episode import EpisodeState
from service.alerts.lifecycle.episodes import Episodes
from service.domain import Alert, MetricShare, Severity, Status, Verdict, alert_id
from service.settings import EpisodeSettings
from tests.alerts.makers import BORN, INTERVAL_MS, STRIDE, drawn, verdict


def told(picture: str, policy: EpisodeSettings | None = None, **changes: object) -> list[Alert]:
    return Episodes(policy or EpisodeSettings(), "abc").observe(drawn(picture, **changes))


def actions(transitions: list[Alert]) -> list[str]:
    return [transition.action for transition in transitions]


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        ("..........", []),
        ("...w......", ["opened", "resolved"]),  # one odd stride: nobody is told
        ("...wWWWWWWWWW.....", ["opened", "resolved"]),  # the same odd row seen by ten overlapping windows
        ("...w.w....", ["opened", "fired", "resolved"]),  # 2 of 3
        ("...w..w...", ["opened", "resolved"]),  # 2 of 4 is not 2 of 3
        ("...c......", ["opened", "fired", "resolved"]),  # critical fires at once
        ("...iwc....", ["opened", "fired", "raised", "resolved"]),
        ("...C......", ["opened", "resolved"]),  # critical, but not on its newest rows
        ("...Www....", ["opened", "fired", "resolved"]),  # the first window held too little of it yet
        ("...wwWWWWWWWW....", ["opened", "fired", "resolved"]),  # its old rows do not open another
        ("...wwWWWWWWWwW....", ["opened", "fired", "resolved", "opened", "resolved"]),  # new odd rows do
        ("...i?i....", ["opened", "fired", "resolved"]),  # an unscored window neither feeds nor resolves
        ("...ii?????", ["opened", "fired"]),
        ("...ii...ii...", ["opened", "fired", "resolved", "opened", "fired", "resolved"]),
        ("...ii..i..", ["opened", "fired"]),  # a short calm does not end it
        ("...WWWWWWWWWW....", ["opened", "resolved"]),  # ten windows hold the same old rows
        # what creeps: the eleventh after the onset shares no row with it
        ("...WWWWWWWWWWWWW....", ["opened", "fired", "updated", "resolved"]),
        (
            "...WWWWWWWWWWWWWWWW.W.WW...",
            ["opened", "fired", "updated", "updated", "resolved"],
        ),  # and goes on without unusual newest rows
        ("...wwWWWWWWWWWWWWWWW...", ["opened", "fired", "resolved", "opened", "fired", "resolved"]),  # it lasts after all
        ("", []),
    ],
)
def test_life_of_an_alert(picture: str, expected: list[str]) -> None:
    assert actions(told(picture)) == expected


@pytest.mark.parametrize(
    ("windows", "expected"),
    [
        ("30w 33w 40.", ["opened"]),  # the early window shares 7 of its 10 newest rows: one odd row in both
        ("23w 30w 40.", ["opened"]),
        ("23w 30w 33w 40w", ["opened", "fired"]),  # 23 and 33 share none
        ("23W 30w 33w 40.", ["opened"]),  # the first was no evidence: 30 counts in its place, and shares rows with 33
        ("23W 30w 33. 40w", ["opened", "fired"]),
        ("23w 24w 25w 30.", ["opened"]),
        ("23w 24c 30.", ["opened", "fired"]),  # critical fires at once, early as well
        ("23w 30w 40w 43. 47. 50. 53. 60. 70.", ["opened", "fired", "resolved"]),  # resolved after three strides of quiet
        ("23w 30w 40w 43. 47. 50. 53.", ["opened", "fired"]),
        ("23w 30w 40w 43. 47. 50. 53. 57w 60. 63. 67. 73. 80.", ["opened", "fired"]),  # what was quiet is not, one row later
        ("20w 30c 33w 36w 40w 43w 46w 50w", ["opened", "fired"]),  # early calm lowers nothing
    ],
)
def test_windows_that_share_their_newest_rows_count_once(windows: str, expected: list[str]) -> None:
    scores = {".": 0.05, "w": 0.8, "c": 0.95}
    seen = [
        verdict(0, scores[sign.lower()], fresh=sign.islower(), end_row=BORN + row, timestamp=(BORN + row) * INTERVAL_MS)
        for row, sign in ((int(window[:-1]), window[-1]) for window in windows.split())
    ]
    assert actions(Episodes(EpisodeSettings()).observe(seen)) == expected


def test_an_alert_says_what_when_and_from_where() -> None:
    opened, fired, resolved = told("...ww...")
    first_row = BORN + 3 * STRIDE - STRIDE + 1
    assert opened.alert_id == fired.alert_id == resolved.alert_id == alert_id("db-7", "hosts", first_row)
    assert [t.seq for t in (opened, fired, resolved)] == [1, 2, 3]
    assert (opened.status, fired.status, resolved.status) == (Status.PENDING, Status.FIRING, Status.RESOLVED)
    assert opened.started_at == first_row * INTERVAL_MS
    assert fired.fired_at == fired.updated_at
    assert resolved.ended_at == (BORN + 4 * STRIDE + 1) * INTERVAL_MS  # the end of the last unusual rows
    assert fired.reason == "2 of the last 3 windows unusual on their newest rows"
    assert resolved.reason == "quiet for 30 s"
    assert (fired.first_offset, fired.last_offset) == (30, 139)
    assert fired.config_hash == "abc"
    assert fired.labels == {"rack": "7"}
    assert fired.windows == 2


def test_an_alert_does_not_outlast_its_cause_by_a_window_length() -> None:
    # 5 windows of cause; then its rows stay inside the 100-row windows for ten strides more
    resolved = told("...wwwwwWWWWWWWWWW.....")[-1]
    assert resolved.action == "resolved"
    last_cause = (BORN + 7 * STRIDE) * INTERVAL_MS
    assert resolved.ended_at == last_cause + INTERVAL_MS
    assert resolved.updated_at - last_cause < 100 * INTERVAL_MS


def test_the_level_is_frozen_at_onset() -> None:
    verdicts = drawn("...ww")
    # the tracker moves up until it no longer calls this anomalous; p follows it
    for slot, level in enumerate((3.0, 4.0, 5.0, 6.0, 7.0), start=5):
        verdicts.append(verdict(slot, 0.8, level=level, fresh=True, is_anomaly=level < 4.8))
    episodes = Episodes(EpisodeSettings())
    assert actions(episodes.observe(verdicts)) == ["opened", "fired"]
    (still,) = episodes.open_alerts()
    assert still.severity is Severity.WARNING
    assert still.score == pytest.approx(0.8)


def test_scores_follow_the_levels_at_onset() -> None:
    # the level has doubled to 8; then it and what claims follow from move on, and the alert does not care
    drifted = [verdict(slot, 9 / 6, level=8.0, exceeded=(2.0, 4.0, 7.0), fresh=True) for slot in range(2)]
    fading = verdict(2, 5 / 6, level=30.0, exceeded=(20.0, 24.0, 28.0), fresh=True)
    episodes = Episodes(EpisodeSettings())
    episodes.observe(drifted)
    (alert,) = episodes.open_alerts()
    assert alert.score == pytest.approx(0.9)  # 1 above the level, where critical begins
    assert -math.log10(alert.p) == pytest.approx(3 + 9 - 7)
    episodes.observe([fading])
    (alert,) = episodes.open_alerts()
    assert alert.score == pytest.approx(0.5 * 5 / 8)
    assert -math.log10(alert.p) == pytest.approx(2 + (5 - 4) / (7 - 4))


def test_claims_follow_what_was_exceeded_at_onset_and_the_rarest_is_kept() -> None:
    seen: dict[str, Any] = {"exceeded": (2.0, 4.0, 6.0), "floor": 1e-4, "fresh": True}
    episodes = Episodes(EpisodeSettings())
    episodes.observe([verdict(0, 5 / 6, **seen)])
    (alert,) = episodes.open_alerts()
    assert alert.p == pytest.approx(10**-2.5)
    moved = seen | {"exceeded": (9.0, 10.0, 11.0)}
    episodes.observe([verdict(1, 2.0, **moved), verdict(2, 6.5 / 6, **moved)])
    (alert,) = episodes.open_alerts()
    assert alert.p == pytest.approx(10**-3.5)
    assert alert.peak_p == pytest.approx(1e-4)
    assert alert.every_days == pytest.approx(STRIDE * INTERVAL_MS * 1e4 / 86_400_000)


def test_a_short_calibration_claims_nothing_rare_and_is_loud_all_the_same() -> None:
    # surprises far beyond what calibration can vouch for: the alert claims one in 10,000, at its onset and ever after
    transitions = Episodes(EpisodeSettings()).observe([verdict(slot, 2.0, floor=1e-4, p=1e-4) for slot in range(5)])
    assert [t.severity for t in transitions] == [Severity.CRITICAL, Severity.CRITICAL]
    assert transitions[-1].peak_p == pytest.approx(1e-4)
    assert transitions[-1].every_days == pytest.approx(STRIDE * INTERVAL_MS * 1e4 / 86_400_000)


def test_an_alert_keeps_the_metrics_of_its_worst_window_that_was_explained() -> None:
    # The level has climbed past the later windows, so nobody explained them; and no score can exceed what calibration vouches for.
    named, worse = (MetricShare(name, 1.0, 9.0, 1.0) for name in ("cpu", "memory"))
    told = Episodes(EpisodeSettings()).observe(
        [
            verdict(0, 1.5, floor=1e-4, p=1e-4, metrics=(named,)),
            verdict(1, 2.0, floor=1e-4, p=1e-4, metrics=(worse,)),
            *(verdict(slot, 2.5, floor=1e-4, p=1e-4, level=20.0, fresh=True, metrics=()) for slot in range(2, 9)),
        ]
    )
    assert told[-1].action == "updated"
    assert [metric.name for metric in told[-1].metrics] == ["memory"]


def test_a_fault_beyond_the_floor_is_still_told_apart_from_drift() -> None:
    # no drift so far (shift 0), though surprise and p differ by the floor; a weaker window of the same fault is as it looks
    episodes = Episodes(EpisodeSettings())
    episodes.observe([verdict(0, 2.0, floor=1e-5, p=1e-5), verdict(1, 0.75, floor=1e-5, level=20.0, fresh=True)])
    (alert,) = episodes.open_alerts()
    assert alert.score == pytest.approx(0.75)


def test_what_score_is_how_severe_can_be_set() -> None:
    policy = EpisodeSettings(warning_above=0.55, critical_above=0.75, severity_hysteresis=0.02)
    seen = [
        verdict(0, 0.8),
        *(verdict(slot, 0.75, fresh=True) for slot in range(1, 3)),
        *(verdict(slot, 0.65) for slot in range(3, 7)),
    ]
    told = Episodes(policy).observe(seen)
    assert [(t.action, t.severity) for t in told] == [
        ("opened", Severity.CRITICAL),
        ("fired", Severity.CRITICAL),
        ("lowered", Severity.WARNING),
    ]
    assert told[-1].updated_at == seen[5].timestamp  # the third window below 0.75 by the hysteresis; 0.75 is not


def test_severity_is_lowered_only_after_staying_well_below() -> None:
    just_below = [verdict(slot, 0.88) for slot in range(4, 10)]  # within 0.05 of 0.9
    well_below = [verdict(slot, 0.75) for slot in range(10, 14)]
    episodes = Episodes(EpisodeSettings())
    assert actions(episodes.observe([verdict(3, 0.95), *just_below])) == ["opened", "fired"]
    lowered = [t for t in episodes.observe(well_below) if t.action == "lowered"]
    assert [(t.severity, t.peak_severity) for t in lowered] == [(Severity.WARNING, Severity.CRITICAL)]
    assert lowered[0].updated_at == verdict(12, 0).timestamp  # the third window well below


def test_a_swinging_score_makes_a_bounded_number_of_transitions() -> None:
    policy = EpisodeSettings(max_severity_changes=4)
    transitions = told("...ii" + "ccciiiii" * 100, policy)
    changes = [t for t in transitions if t.action in ("raised", "lowered")]
    assert len(changes) == 4
    assert actions(transitions).count("updated") <= 8  # log2 of 800 windows, less the first


def test_a_long_episode_is_accepted_as_the_new_normal_once() -> None:
    policy = EpisodeSettings(max_episode_seconds=200)
    transitions = told("...ww" + "w" * 60, policy)
    assert actions(transitions).count("resolved") == 1
    assert transitions[-1].action == "resolved"
    assert transitions[-1].reason == "accepted as the new normal after 3 min 20 s"
    # a calm window ends the acceptance; worse than what was accepted opens at once
    assert actions(told("...ww" + "w" * 30 + ".ww", policy))[-2:] == ["opened", "fired"]
    assert actions(told("...ww" + "w" * 30 + "c", policy))[-2:] == ["opened", "fired"]


def test_a_gap_closes_an_alert_with_its_reason() -> None:
    policy = EpisodeSettings(max_gap_seconds=120)
    transitions = told("...ww" + " " * 15 + ".", policy)
    assert transitions[-1].action == "resolved"
    assert transitions[-1].reason == "no scored data for 2 min 40 s"
    assert told("...ww" + "?" * 15, policy)[-1].reason == "no scored data for 2 min 10 s"


def test_windows_that_lie_far_apart_are_no_gap() -> None:
    hourly = [msgspec.structs.replace(v, interval_ms=360_000) for v in drawn("...ww..w...")]
    assert actions(Episodes(EpisodeSettings()).observe(hourly)) == ["opened", "fired", "resolved"]


def test_another_model_closes_and_may_open_again() -> None:
    episodes = Episodes(EpisodeSettings())
    episodes.observe(drawn("...ww"))
    closed, opened = episodes.observe([verdict(5, 0.8, bundle="other")])
    assert (closed.action, closed.reason) == ("resolved", "another model (other) serves this entity now")
    assert (opened.action, opened.bundle) == ("opened", "other")
    assert closed.alert_id != opened.alert_id


def test_acknowledging_is_a_transition_of_the_open_alert_only() -> None:
    episodes = Episodes(EpisodeSettings())
    fired = episodes.observe(drawn("...c"))[-1]
    taken = episodes.acknowledge(fired.alert_id, "db-7", "Ada", fired.updated_at + 7000, "on it")
    assert taken is not None
    assert (taken.seq, taken.action, taken.acknowledged_by) == (3, "acknowledged", "Ada")
    assert taken.reason == "acknowledged by Ada: on it"
    assert episodes.acknowledge("0" * 32, "db-7", "Ada", 0) is None
    resolved = episodes.observe([verdict(slot, 0.05) for slot in range(4, 8)])[-1]
    assert (resolved.seq, resolved.acknowledged_by) == (4, "Ada")
    assert episodes.acknowledge(fired.alert_id, "db-7", "Ada", 0) is None


def test_expired_entities_close_their_alerts() -> None:
    episodes = Episodes(EpisodeSettings())
    episodes.observe(drawn("...c"))
    (closed,) = episodes.close_idle(["db-7", "never-seen"])
    assert (closed.action, closed.reason, closed.seq) == ("resolved", "the entity stopped sending", 3)
    assert episodes.close_idle(["db-7"]) == []


def test_min_severity_keeps_quiet_anomalies_out() -> None:
    assert actions(told("...iii..ww...", EpisodeSettings(min_severity="warning"))) == ["opened", "fired", "resolved"]


PICTURES = st.text(alphabet=".iwcIWC? ", max_size=60)
POLICIES = st.builds(
    EpisodeSettings,
    fire_after=st.integers(1, 3),
    fire_within=st.integers(3, 6),
    resolve_after_windows=st.integers(1, 4),
    max_severity_changes=st.integers(1, 5),
    max_gap_seconds=st.sampled_from([50.0, 600.0]),
    max_episode_seconds=st.sampled_from([150.0, 86_400.0]),
)


def by_alert(transitions: list[Alert]) -> dict[str, list[Alert]]:
    grouped: dict[str, list[Alert]] = {}
    for transition in transitions:
        grouped.setdefault(transition.alert_id, []).append(transition)
    return grouped


@given(PICTURES, POLICIES)
def test_every_life_is_lawful(picture: str, policy: EpisodeSettings) -> None:
    for lived in by_alert(told(picture, policy)).values():
        assert [t.seq for t in lived] == list(range(1, len(lived) + 1))
        assert lived[0].action == "opened"
        assert actions(lived).count("fired") <= 1
        assert actions(lived).count("resolved") <= 1
        assert "resolved" not in actions(lived)[:-1]
        assert all(t.reason for t in lived)
        assert all(a.updated_at <= b.updated_at for a, b in itertools.pairwise(lived))
        assert all(t.peak_severity.rank >= t.severity.rank for t in lived)
        for t in lived:
            assert (t.fired_at is not None) == ("fired" in actions(lived)[: t.seq])
            assert (t.ended_at is not None) == (t.status is Status.RESOLVED)
            assert t.ended_at is None or t.started_at < t.ended_at <= t.updated_at + INTERVAL_MS


@given(PICTURES, POLICIES, st.integers(0, 60), st.integers(0, 60))
def test_a_restart_with_state_and_repeated_windows_changes_nothing(
    picture: str, policy: EpisodeSettings, cut: int, back: int
) -> None:
    verdicts = drawn(picture)
    whole = Episodes(policy).observe(verdicts)
    first = Episodes(policy)
    before = first.observe(verdicts[:cut])
    kept = msgspec.json.decode(msgspec.json.encode(first.snapshot()), type=dict[str, EpisodeState])
    second = Episodes(policy)
    second.restore(kept)
    assert before + second.observe(verdicts[max(0, cut - back) :]) == whole


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.sampled_from(".iwcW?")), max_size=60), POLICIES)
def test_entities_do_not_influence_each_other(mixed: list[tuple[str, str]], policy: EpisodeSettings) -> None:
    verdicts: list[Verdict] = []
    slots = {"a": 0, "b": 0, "c": 0}
    for entity, mark in mixed:
        slots[entity] += 1
        verdicts += [msgspec.structs.replace(v, entity=entity) for v in drawn(" " * slots[entity] + mark)]
    together = Episodes(policy).observe(verdicts)
    for entity in slots:
        alone = Episodes(policy).observe([v for v in verdicts if v.entity == entity])
        assert [t for t in together if t.entity == entity] == alone


@given(st.integers(0, 20), st.sampled_from("iw"), st.integers(1, 10))  # a window holds a row for nine strides more
def test_one_spiked_row_below_critical_pages_nobody(calm: int, mark: str, covering: int) -> None:
    # the row is fresh in one window and inside the next ``covering`` ones, where it may look worse than it did
    picture = "." * calm + mark + "C" * covering + "." * 6
    assert "fired" not in actions(told(picture))


def test_forgotten_entities_leave_no_trace() -> None:
    episodes = Episodes(EpisodeSettings())
    episodes.observe(drawn("...c"))
    assert set(episodes.snapshot()) == {"db-7"}
    assert episodes.state_of("db-7") == episodes.snapshot()["db-7"]
    episodes.forget(["db-7"])
    assert episodes.snapshot() == {}
    assert episodes.open_alerts() == []


def test_what_creeps_says_how_long_it_has_been_unusual() -> None:
    fired = told("...WWWWWWWWWWWWW....")[1]
    assert fired.reason == "unusual without a break for 2 min 10 s"
