"""WindowScorer: verdicts from windows, whatever its members do."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from service.detectors.base import Detector
from service.detectors.bundle import Bundle
from service.detectors.decision.claims import ClaimState
from service.detectors.decision.ensemble import DetectorState
from service.detectors.features.statistics import WindowStatistics, require_windows
from service.detectors.features.windows import Features
from service.detectors.window_scorer import LEAST_SHARE, WindowScorer
from service.domain import F32, F64, Dataset, Schema, Series, Severity, SeverityBounds, Verdict, WindowBatch
from service.errors import ConfigError
from service.progress import Progress, silent
from service.rarity import rarity
from service.settings import BudgetSettings, DetectionSettings, TrainingSettings
from service.training.train import train

SCHEMA = Schema(("cpu", "memory", "disk", "network"), 1000)
WINDOW, STRIDE = 20, 5


class Distance:
    """A detector as small as one can be: the mean absolute statistic."""

    default_name = "distance"

    def __init__(self, *, spans: Sequence[int] = (5,)) -> None:
        self.name = "distance"
        self._statistics = WindowStatistics(spans)

    def fit(self, features: Features, *, progress: Progress = silent) -> None:
        require_windows(features, 10, self.name)
        self._statistics.fit(features)

    def score(self, features: Features) -> F64:
        mean: F64 = np.abs(self._statistics.transform(features)).mean(axis=1, dtype=np.float64)
        return mean

    def attribute(self, features: Features) -> F64:
        return self._statistics.per_metric(np.abs(self._statistics.transform(features)), features.dims)

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return self._statistics.state()

    def restore(self, settings: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
        self._statistics.restore(settings, arrays)


class Misbehaving(Distance):
    """Does what ``act`` says when it scores."""

    act: Callable[[], None] = staticmethod(lambda: None)

    def score(self, features: Features) -> F64:
        type(self).act()
        return super().score(features)


def factory(name: str, options: Mapping[str, Any]) -> Detector:
    made = {"distance": Distance, "second": Distance, "odd": Misbehaving}[name](**options)
    made.name = name
    return made


def rows(count: int, seed: int = 0) -> F32:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((count, 4)) * [1, 10, 0.1, 5] + [50, 300, 1, 0]).astype(np.float32)


def trained(**detectors: float) -> Bundle:
    settings = TrainingSettings(window=WINDOW, stride=STRIDE)
    dataset = Dataset(SCHEMA, [Series("a", 0, rows(3000)), Series("b", 0, rows(3000, seed=1) + 5)])
    return train(dataset, settings, name="test", detectors=detectors or {"distance": 1.0}, factory=factory)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return trained(distance=0.5, second=0.3, odd=0.2)


@pytest.fixture(autouse=True)
def _behave() -> Any:
    yield
    Misbehaving.act = staticmethod(lambda: None)


# One row in a hundred: a budget that twenty minutes of calibration support.
OFTEN = BudgetSettings(false_alarms_per_entity_day=864.0)


def batch(values: F32, entity: str = "a", first: int = 0) -> WindowBatch:
    """Every due window of one entity's rows, the first row being number ``first``."""
    ends = np.array([end for end in range(WINDOW, len(values) + 1) if (first + end - 1) % STRIDE == 0])
    windows = np.stack([values[end - WINDOW : end] for end in ends])
    n = len(ends)
    mask = np.isfinite(windows)
    offsets = ends.astype(np.int64)
    labels = ({"rack": "7"},) * n
    return WindowBatch(
        SCHEMA, windows, mask, (entity,) * n, first + ends - 1, "metrics", np.full(n, 2), offsets - WINDOW, offsets, labels
    )


def faulty(count: int = 400, at: int = 300) -> F32:
    values = rows(count, seed=5)
    values[at:, 1] += 80
    return values


async def verdicts_of(detector: WindowScorer, *batches: WindowBatch) -> list[Verdict]:
    try:
        return [verdict for one in batches for verdict in await detector.detect(one)]
    finally:
        detector.close()


async def test_a_fault_is_reported_with_its_metric_in_the_metrics_own_unit(bundle: Bundle) -> None:
    seen = batch(faulty())
    verdicts = await verdicts_of(WindowScorer(bundle, DetectionSettings(budget=OFTEN)), seen)
    onsets = [verdict for verdict in verdicts if verdict.is_anomaly and verdict.end_row >= 300]
    assert onsets[0].end_row <= 310
    top = onsets[0].metrics[0]
    assert top.name == "memory"
    assert top.share > 0.5
    assert top.expected == pytest.approx(300, abs=2)
    assert top.spread == pytest.approx(10, abs=1)
    assert top.actual == pytest.approx(float(faulty()[onsets[0].end_row, 1]))
    assert top.recent[-1] == top.actual
    assert len(top.recent) == WINDOW
    assert sum(metric.share for metric in onsets[0].metrics) == pytest.approx(1)
    assert all(metric.share >= LEAST_SHARE for metric in onsets[0].metrics[1:])  # no metric is named without a part in it
    assert onsets[0].fresh_p < 0.05
    assert all(0 <= verdict.score <= 1 for verdict in verdicts)


async def test_verdicts_stand_in_the_windows_order_and_say_where_they_come_from(bundle: Bundle) -> None:
    seen = batch(rows(60, seed=3), entity="b")
    verdicts = await verdicts_of(WindowScorer(bundle), seen)
    assert [verdict.end_row for verdict in verdicts] == seen.end_rows.tolist()
    first = verdicts[0]
    assert (first.entity, first.timestamp, first.stride, first.interval_ms) == ("b", int(seen.end_rows[0]) * 1000, STRIDE, 1000)
    assert (first.topic, first.partition, first.first_offset, first.last_offset) == (
        "metrics", 2, int(seen.first_offsets[0]), int(seen.last_offsets[0])
    )  # fmt: skip
    assert (first.bundle, first.bundle_version, first.labels) == ("test", bundle.version, {"rack": "7"})
    assert [member.name for member in first.members] == ["distance", "second", "odd"]
    assert all(member.state == "ok" for member in first.members)


async def test_normal_data_keep_the_false_alarms_near_the_budget() -> None:
    detector = WindowScorer(trained(), DetectionSettings(budget=OFTEN))
    verdicts = await verdicts_of(detector, batch(rows(20_000, seed=9)))
    alarms = sum(verdict.is_anomaly for verdict in verdicts)
    assert 40 <= alarms <= 400  # 200 expected


async def test_windows_with_too_few_observed_values_are_not_scored_and_give_the_reason(bundle: Bundle) -> None:
    values = rows(60, seed=3)
    values[20:40] = np.nan
    verdicts = await verdicts_of(WindowScorer(bundle, min_coverage=0.8), batch(values))
    unscored = [verdict for verdict in verdicts if verdict.not_scored]
    assert 0 < len(unscored) < len(verdicts)
    assert "observed" in str(unscored[0].not_scored)
    assert (unscored[0].p, unscored[0].score, unscored[0].is_anomaly) == (1.0, 0.0, False)


async def test_a_member_that_fails_is_named_and_the_others_score(bundle: Bundle) -> None:
    def fail() -> None:
        raise ZeroDivisionError("on purpose")

    Misbehaving.act = staticmethod(fail)
    verdicts = await verdicts_of(WindowScorer(bundle, DetectionSettings(budget=OFTEN)), batch(faulty()))
    assert all(verdict.members[2].state == "failed" for verdict in verdicts)
    assert verdicts[0].members[2].reason == "ZeroDivisionError: on purpose"
    assert verdicts[0].members[2].p is None
    assert any(verdict.is_anomaly for verdict in verdicts)
    fewer = DetectionSettings(budget=OFTEN, detectors={"distance": 0.5, "second": 0.3})
    without = await verdicts_of(WindowScorer(bundle, fewer), batch(faulty()))
    assert [verdict.surprise for verdict in verdicts] == [verdict.surprise for verdict in without]


async def test_a_member_that_is_late_is_named_and_skipped_until_it_is_done(bundle: Bundle) -> None:
    release = threading.Event()
    Misbehaving.act = staticmethod(lambda: _wait(release))
    detector = WindowScorer(bundle, DetectionSettings(timeout_seconds=0.2))
    seen = batch(rows(100, seed=3))
    first = await detector.detect(seen)
    assert first[0].members[2].state == "timeout"
    assert first[0].members[0].state == "ok"
    assert first[0].not_scored is None
    second = await detector.detect(seen)
    assert "still busy" in second[0].members[2].reason
    release.set()
    await asyncio.sleep(0.2)
    third = await detector.detect(seen)
    assert third[0].members[2].state == "ok"
    detector.close()


async def test_no_member_left_means_no_score(bundle: Bundle) -> None:
    def fail() -> None:
        raise RuntimeError("not fitted")

    Misbehaving.act = staticmethod(fail)
    verdicts = await verdicts_of(WindowScorer(bundle, DetectionSettings(detectors={"odd": 1.0})), batch(rows(60)))
    assert {verdict.not_scored for verdict in verdicts} == {"no detector could score it"}
    assert verdicts[0].members[0].reason == "RuntimeError: not fitted"


async def test_the_event_loop_stays_free_and_members_run_side_by_side(bundle: Bundle) -> None:
    running, most = 0, 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.3)
        with lock:
            running -= 1

    both = replace(bundle, members=tuple(replace(member, detector=_twin(bundle)) for member in bundle.members))
    Misbehaving.act = staticmethod(work)
    detector = WindowScorer(both, DetectionSettings(threads=3))
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    await verdicts_of(detector, batch(rows(60)))
    ticking.cancel()
    assert most == 3
    assert ticks >= 5


def _twin(bundle: Bundle) -> Detector:
    made = factory("odd", {})
    made.restore(*bundle.members[0].detector.state())
    return made


async def test_a_snapshot_carries_an_entity_to_another_process(bundle: Bundle) -> None:
    values = faulty(600, at=450)
    whole = await verdicts_of(WindowScorer(bundle), batch(values))
    before, after = WindowScorer(bundle), WindowScorer(bundle)
    cut = 320
    first = await verdicts_of(before, batch(values[:cut]))
    restored = msgspec.json.decode(msgspec.json.encode({"a": before.state_of("a")}), type=dict[str, DetectorState])
    assert list(restored) == ["a"]
    after.restore(restored)
    second = await verdicts_of(after, batch(values[cut - WINDOW + 1 :], first=cut - WINDOW + 1))
    assert [msgspec.to_builtins(v)["level"] for v in first + second] == [msgspec.to_builtins(v)["level"] for v in whole]
    assert [(v.end_row, v.surprise, v.is_anomaly) for v in first + second] == [(v.end_row, v.surprise, v.is_anomaly) for v in whole]
    assert [(v.p, v.exceeded, v.floor) for v in first + second] == [(v.p, v.exceeded, v.floor) for v in whole]
    after.forget(["a"])
    assert after.snapshot() == {}


async def test_batching_does_not_change_verdicts(bundle: Bundle) -> None:
    seen = batch(faulty())
    together = await verdicts_of(WindowScorer(bundle), seen)
    pieces = [_slice(seen, at, at + 1) for at in range(len(seen))]
    alone = await verdicts_of(WindowScorer(bundle), *pieces)
    np.testing.assert_allclose([v.surprise for v in alone], [v.surprise for v in together], rtol=1e-5)
    assert [v.is_anomaly for v in alone] == [v.is_anomaly for v in together]


def _wait(release: threading.Event) -> None:
    release.wait(20)


def _slice(seen: WindowBatch, start: int, stop: int) -> WindowBatch:
    at = slice(start, stop)
    return replace(
        seen,
        values=seen.values[at],
        mask=seen.mask[at],
        entities=seen.entities[at],
        end_rows=seen.end_rows[at],
        partitions=seen.partitions[at],
        first_offsets=seen.first_offsets[at],
        last_offsets=seen.last_offsets[at],
        labels=seen.labels[at],
    )


async def test_an_entity_never_seen_in_training_is_scored_from_its_first_window(bundle: Bundle) -> None:
    verdicts = await verdicts_of(WindowScorer(bundle), batch(rows(WINDOW + STRIDE, seed=3), entity="new"))
    assert verdicts
    assert all(verdict.not_scored is None for verdict in verdicts)


async def test_a_short_calibration_claims_nothing_rare_and_can_still_be_loud(bundle: Bundle) -> None:
    verdicts = await verdicts_of(WindowScorer(bundle), batch(faulty()))
    tail = bundle.calibration()
    # What is claimed reaches further with every window length scored outside incidents.
    calm = sum(not verdict.is_anomaly for verdict in verdicts) * bundle.stride / bundle.window
    assert tail.floor > min(verdict.p for verdict in verdicts) >= 1 / (10 * (tail.n_eff + calm))
    loudest = max(verdicts, key=lambda verdict: verdict.surprise)
    assert loudest.surprise > loudest.critical > loudest.warning > loudest.level
    assert loudest.severity is Severity.CRITICAL


async def test_what_score_is_how_severe_can_be_set(bundle: Bundle) -> None:
    bounds = SeverityBounds(warning=0.55, critical=0.9)
    verdicts = await verdicts_of(WindowScorer(bundle, bounds=bounds), batch(faulty()))
    assert {verdict.severity for verdict in verdicts} >= {Severity.INFO, Severity.WARNING}
    assert all(verdict.severity is bounds.of(verdict.score) for verdict in verdicts)


def test_a_detector_the_bundle_lacks_is_refused_by_name(bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match=r"names ghost; the bundle test holds distance, second, odd"):
        WindowScorer(bundle, DetectionSettings(detectors={"ghost": 1.0}))


@pytest.mark.parametrize("rule", ["mean+2sigma", "mean+3sigma", "quantile", "majority"])
async def test_the_plain_rules_find_the_fault_and_never_adjust(bundle: Bundle, rule: str) -> None:
    detector = WindowScorer(bundle, DetectionSettings(rule=rule, budget=OFTEN))
    verdicts = await verdicts_of(detector, batch(faulty()))
    assert all(verdict.is_anomaly for verdict in verdicts if verdict.end_row >= 310)
    assert sum(verdict.is_anomaly for verdict in verdicts if verdict.end_row < 300) <= 8  # of 56
    assert len({verdict.level for verdict in verdicts}) == 1
    expected = [max(10 ** -rarity(one.surprise, *one.exceeded), one.floor) for one in verdicts]
    assert [verdict.p for verdict in verdicts] == pytest.approx(expected)


@pytest.mark.parametrize("wider", [1.0, 1.6])
async def test_one_in_ten_is_reported_for_one_window_in_ten_after_drift_too(bundle: Bundle, wider: float) -> None:
    drifted = ((rows(20_000, seed=9) - [50, 300, 1, 0]) * wider + [50, 300, 1, 0]).astype(np.float32)
    verdicts = (await verdicts_of(WindowScorer(bundle, DetectionSettings(budget=OFTEN)), batch(drifted)))[400:]
    if wider > 1:
        assert np.mean([verdict.surprise >= 1 for verdict in verdicts]) > 0.5
    assert 0.07 < np.mean([verdict.p <= 0.1 for verdict in verdicts]) < 0.13
    assert all((verdict.p >= 0.1) == (verdict.surprise <= verdict.exceeded[0]) for verdict in verdicts)


async def test_more_sigmas_ask_for_more(bundle: Bundle) -> None:
    levels = [
        (await verdicts_of(WindowScorer(bundle, DetectionSettings(rule=rule)), batch(rows(60))))[0].level
        for rule in ("mean+2sigma", "mean+3sigma")
    ]
    assert 0.5 < levels[0] < levels[1]


async def test_a_budget_of_pages_is_divided_among_the_entities_known_now(bundle: Bundle) -> None:
    scorer = WindowScorer(bundle, DetectionSettings(budget=BudgetSettings(false_pages_per_day=6.0)))
    per_row = 6.0 * SCHEMA.interval_ms / 86_400_000
    assert scorer.budget_params().rate == pytest.approx(per_row / 2)  # trained on a and b
    for entity in ("c", "d", "e"):
        await scorer.detect(batch(rows(40), entity))
    assert scorer.budget_params().rate == pytest.approx(per_row / 3)  # three are more than it was trained on
    each = WindowScorer(bundle, DetectionSettings(budget=BudgetSettings(false_alarms_per_entity_day=6.0)))
    assert each.budget_params().rate == pytest.approx(per_row)
    for one in (scorer, each):
        one.close()


async def test_the_state_of_the_version_before_is_taken_over(bundle: Bundle) -> None:
    """Its level was a logarithm: it starts anew, the newest row stays. Nothing of its claims was followed."""
    former = msgspec.msgpack.decode(msgspec.msgpack.encode([40, [0.5, 0.25, 40, 0.1]]), type=DetectorState)
    scorer = WindowScorer(bundle, DetectionSettings(budget=OFTEN))
    scorer.restore({"a": former})
    state = scorer.state_of("a")
    assert state is not None
    assert state.row == 40
    assert (state.tracker.level, state.tracker.row) == (scorer.budget_params().start, 40)
    assert state.claims == ClaimState()
    scorer.close()
