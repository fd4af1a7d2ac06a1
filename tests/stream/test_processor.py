"""Entities, partitions and limits around the windows."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from service.clock import ManualClock
from service.detectors.windowing.early_windows import EarlyWindows
from service.domain import Record, Sample, Samples, Schema, WindowBatch
from service.settings import StreamSettings
from service.stream.processor import StreamProcessor
from service.stream.samples import rows_to_samples

SCHEMA = Schema(("cpu", "mem"), 1000)


def sample(entity: str, row: int, *, partition: int = 0, offset: int | None = None, labels: dict[str, str] | None = None) -> Sample:
    """A sample whose offset is its row unless told."""
    values = np.array([row, -row], np.float32)
    record = Record("metrics", partition, row if offset is None else offset, row * 1000, entity.encode(), None)
    return Sample(entity, row, row * 1000, values, ~np.isnan(values), record, labels or {})


def processor(*, window: int = 3, stride: int = 1, **settings: float) -> StreamProcessor:
    return StreamProcessor(SCHEMA, window=window, stride=stride, settings=StreamSettings(**settings))


def ends(batches: list[WindowBatch]) -> list[tuple[str, int]]:
    """(entity, end row) of every window."""
    return [(entity, int(row)) for batch in batches for entity, row in zip(batch.entities, batch.end_rows, strict=True)]


def test_windows_of_several_entities_come_together() -> None:
    samples = [sample(entity, row, labels={"rack": str(row)}) for row in range(4) for entity in ("a", "b")]
    (batch,), rejected = processor().add(samples, {})
    assert not rejected
    assert ends([batch]) == [("a", 2), ("b", 2), ("a", 3), ("b", 3)]
    assert batch.values.shape == (4, 3, 2)
    assert batch.values.dtype == np.float32
    assert batch.values[2].tolist() == [[1, -1], [2, -2], [3, -3]]
    assert batch.mask.all()
    assert (batch.topic, batch.partitions.tolist(), batch.schema) == ("metrics", [0] * 4, SCHEMA)
    assert batch.first_offsets.tolist() == [0, 0, 1, 1]
    assert batch.last_offsets.tolist() == [2, 2, 3, 3]
    assert batch.labels == ({"rack": "3"},) * 4


def test_the_phase_is_the_entitys_own() -> None:
    names = [f"host-{at}" for at in range(20)]
    batches, _ = processor(window=10, stride=10).add([sample(name, row) for row in range(40) for name in names], {})
    got = ends(batches)
    assert sorted(got) == sorted(
        (name, row) for name in names for row in range(9, 40) if (row + zlib.crc32(name.encode())) % 10 == 0
    )
    assert len({row for _, row in got}) > 5  # spread, so that not all are scored at the same moment


def test_windows_before_resume_at_are_not_given_again() -> None:
    one = processor()
    batches, _ = one.add([sample("a", row) for row in range(6)] + [sample("b", row, partition=1) for row in range(6)], {0: 5})
    assert sorted(ends(batches)) == [("a", 5), ("b", 2), ("b", 3), ("b", 4), ("b", 5)]


def test_an_entity_on_two_partitions_is_refused() -> None:
    one = processor()
    _, rejected = one.add([sample("a", 0), sample("a", 1, partition=1), sample("a", 1)], {})
    assert [(item.reason, item.record.partition) for item in rejected] == [("split-entity", 1)]
    assert "'a'" in rejected[0].message
    assert "partition 0" in rejected[0].message
    assert one.counts.entities == 1


def test_too_many_entities_are_refused_until_one_is_silent_long_enough() -> None:
    one = processor(max_entities=2, idle_after_seconds=100)
    _, rejected = one.add([sample(name, 0) for name in "abc"], {})
    assert [(item.reason, item.record.key) for item in rejected] == [("too-many-entities", b"c")]
    assert "stream.max_entities" in rejected[0].message
    for row in range(1, 130):
        _, rejected = one.add([sample("a", row)], {})
        assert not rejected
    assert one.take_expired() == [(0, "b")]
    assert one.take_expired() == []
    assert (one.counts.entities, one.counts.expired) == (1, 1)
    _, rejected = one.add([sample("c", 130)], {})
    assert not rejected


def test_made_up_names_neither_keep_the_places_nor_push_anybody_out() -> None:
    """Each row brings two real entities and a name that never comes again; the third real one gets in once the flood ends."""
    one = processor(window=3, max_entities=5, max_gap_rows=1)
    refused, ended = set(), []
    for row in range(40):
        names = ["a", "b"] + ([f"made-up-{row}-{at}" for at in range(9)] if row < 20 else ["c"])
        batches, rejected = one.add([sample(name, row) for name in names], {})
        refused |= {(item.record.key, item.reason) for item in rejected}
        ended += ends(batches)
    assert {reason for _, reason in refused} == {"too-many-entities"}
    assert not {key for key, _ in refused} & {b"a", b"b"}
    assert [end for end in ended if end[0] in "ab"] == [(name, row) for row in range(2, 40) for name in "ab"]
    assert ("c", 39) in ended
    assert not [end for end in ended if end[0].startswith("made")]
    assert one.counts.entities <= one.counts.max_entities == 5
    assert one.counts.expired == len({name for _, name in one.take_expired()}) > 3


def test_one_clock_that_is_ahead_makes_nobody_else_look_silent() -> None:
    clock = ManualClock(100_000)
    one = StreamProcessor(SCHEMA, window=3, stride=1, settings=StreamSettings(idle_after_seconds=50, max_entities=3), clock=clock)
    ended = []
    for row in range(100, 140):
        clock.advance(1)
        ended += ends(one.add([sample("a", row), sample("b", row), sample("ahead", 10_000 + row)], {})[0])
    assert [end for end in ended if end[0] != "ahead"] == [(name, row) for row in range(102, 140) for name in "ab"]
    assert one.take_expired() == []


@pytest.mark.parametrize("behind", [0, 3 * 3600, 30 * 86_400])
@pytest.mark.parametrize("first", [False, True])
def test_a_clock_that_is_ahead_makes_nobody_look_silent_also_while_old_records_are_read(behind: int, first: bool) -> None:
    names = [f"good-{at}" for at in range(5)]
    start, ahead = 1_000_000, 7200
    clock = ManualClock((start + behind) * 1000)
    one = StreamProcessor(SCHEMA, window=3, stride=1, settings=StreamSettings(idle_after_seconds=600), clock=clock)
    if first:
        one.add([sample("ahead", start + ahead)], {})
    ended = []
    for row in range(start, start + 900):
        for moved in ([sample(name, row) for name in names], [sample("ahead", row + ahead)]):
            ended += ends(one.add(moved, {})[0])
    assert [end for end in ended if end[0] != "ahead"] == [(name, row) for row in range(start + 2, start + 900) for name in names]
    assert {name for _, name in one.take_expired()} <= {"ahead"}


def test_while_old_records_are_read_those_that_stopped_expire_also_when_they_are_most() -> None:
    clock = ManualClock(10_000_000)
    one = StreamProcessor(SCHEMA, window=3, stride=1, settings=StreamSettings(idle_after_seconds=60), clock=clock)
    gone = [f"gone-{at}" for at in range(20)]
    for row in range(10):
        one.add([sample(name, row) for name in (*gone, "stays")], {})
    for row in range(10, 300):
        one.add([sample("stays", row)], {})
    assert sorted(one.take_expired()) == sorted((0, name) for name in gone)


def test_names_from_the_future_do_not_keep_the_places() -> None:
    settings = StreamSettings(max_entities=2)
    one = StreamProcessor(SCHEMA, window=3, stride=1, settings=settings, clock=ManualClock(200_000))
    one.add([sample("ahead", 10_000), *[sample("a", row) for row in range(100, 104)]], {})
    assert [item.reason for item in one.add([sample("new", 104)], {})[1]] == ["too-many-entities"]
    assert one.add([sample("new", 105)], {})[1] == []
    assert one.take_expired() == [(0, "ahead")]


def test_who_filled_a_window_keeps_its_place_while_it_is_silent() -> None:
    one = processor(window=3, max_entities=2, max_gap_rows=1, idle_after_seconds=100)
    one.add([sample("a", row) for row in range(3)] + [sample("b", 0)], {})
    for row in range(3, 90):
        one.add([sample("new", row)], {})
    assert one.take_expired() == [(0, "b")]


def test_a_partition_replayed_behind_the_other_keeps_its_entities() -> None:
    one = processor(idle_after_seconds=100)
    for step in range(300):
        batches, _ = one.add([sample("now", 100_000 + step), sample("then", step, partition=1)], {})
    assert one.counts.expired == 0
    assert ends(batches) == [("now", 100_299), ("then", 299)]


def test_a_batch_longer_than_the_silence_allowed_forgets_nobody_who_is_in_it() -> None:
    one = processor(window=3, idle_after_seconds=100)
    ended = []
    for begin in range(0, 1000, 250):
        batches, _ = one.add([sample(name, row) for row in range(begin, begin + 250) for name in ("a", "b")], {})
        ended += ends(batches)
    assert sorted(ended) == [(name, row) for name in "ab" for row in range(2, 1000)]
    one.add([sample("a", row) for row in range(1000, 1250)], {})
    assert one.take_expired() == [(0, "b")]


def test_dropped_partitions_are_forgotten_and_their_slots_used_again() -> None:
    one = processor(max_entities=2)
    one.add([sample("a", row) for row in range(5)] + [sample("b", row, partition=1) for row in range(5)], {})
    assert (one.oldest_offset(0), one.oldest_offset(1), one.oldest_offset(2)) == (0, 0, None)
    assert one.drop_partitions([1]) == ["b"]
    assert one.oldest_offset(1) is None
    batches, rejected = one.add([sample("b", 5, partition=0), sample("a", 5)], {})
    assert not rejected
    assert ends(batches) == [("a", 5)]  # b begins anew, now on partition 0


def test_what_was_dropped_is_counted() -> None:
    one = processor(max_gap_rows=1, min_coverage=0.9)
    one.add([sample("a", row) for row in (0, 1, 1, 0, 3, 2, 9, 10, 11)], {})
    counts = one.counts
    # 1 and 0 again; 2 comes after 3; 3 to 9 is too far; the window over 1 . 3 has two of three rows, that over 0 1 . too
    assert (counts.duplicate, counts.late, counts.gap_resets, counts.low_coverage) == (2, 1, 1, 2)


def test_lateness_is_told_in_seconds() -> None:
    late = [sample("a", row) for row in (0, 1, 3, 2, 4)]
    (batch,), _ = processor(window=5, allowed_lateness_seconds=1).add(late, {})
    assert batch.mask.all()
    (batch,), _ = processor(window=5, allowed_lateness_seconds=0.9).add(late, {})
    assert not batch.mask.all()


def test_columns_and_single_samples_are_the_same() -> None:
    rng = np.random.default_rng(0)
    samples = [sample(f"host-{rng.integers(5)}", int(row)) for row in np.repeat(np.arange(40), 3)]
    one, two = processor(), processor()
    whole, _ = one.add(Samples.of(SCHEMA, samples), {})
    parts = [batch for at in range(0, len(samples), 7) for batch in two.add(samples[at : at + 7], {})[0]]
    assert ends(whole) == ends(parts)
    np.testing.assert_array_equal(np.concatenate([b.values for b in whole]), np.concatenate([b.values for b in parts]))
    assert one.add([], {}) == ([], [])


def test_memory_follows_the_entities_up_to_the_cap() -> None:
    one = processor(window=100, max_entities=500)
    one.add([sample(f"host-{at}", 0) for at in range(500)], {})
    full = one.nbytes
    _, rejected = one.add([sample(f"more-{at}", 0) for at in range(500)], {})
    assert len(rejected) == 500
    assert one.nbytes == full


def test_plain_rows_become_samples_of_one_entity() -> None:
    assert [one.row for one in rows_to_samples(np.array([1, 2]), SCHEMA, entity="stream")] == [0]
    got = rows_to_samples(np.array([[3, 4], [5, np.nan]]), SCHEMA, entity="stream", first_row=5)
    assert [(one.entity, one.row, one.timestamp) for one in got] == [("stream", row, row * 1000) for row in (5, 6)]
    assert got[1].mask.tolist() == [True, False]


def test_rows_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be \(2,\) or \(n, 2\)"):
        rows_to_samples(np.zeros((2, 3)), SCHEMA, entity="stream")


def test_early_windows_make_batches_of_fewer_records_and_not_larger_ones() -> None:
    def records(stride: int, early: EarlyWindows | None) -> int:
        one = StreamProcessor(SCHEMA, window=60, stride=stride, settings=StreamSettings(), early=early)
        return one.max_records_for(600_000)  # of 600 bytes a window

    jumpy = EarlyWindows(np.ones((1, 2), np.float32), 0.0)
    assert [records(stride, None) for stride in (1, 2, 30)] == [1000, 2000, 30_000]
    assert [records(stride, jumpy) for stride in (1, 2, 30)] == [1000, 1000, 10_000]
    one = StreamProcessor(SCHEMA, window=60, stride=30, settings=StreamSettings(), early=jumpy)
    due, _ = one.add([sample("a", row) for row in range(3000)], {})  # every row jumps
    assert sum(len(batch) for batch in due) <= 300 + 1
