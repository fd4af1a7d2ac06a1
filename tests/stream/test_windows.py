"""The time semantics of windows, drawn.

A drawing has one column a grid row. ``rows`` is what arrives, in order of arrival; a window is drawn as the rows it
covers: a digit for an observed value, ``.`` for one carried forward (masked), ``?`` for one never seen.
"""

from __future__ import annotations

import numpy as np
import pytest

from service.stream.window_buffers import DUPLICATE, LATE, LOW_COVERAGE, RESETS
from service.stream.windows import Due, Shape, Windows


def feed(shape: Shape, rows: str, *, phase: int = 0, resume_at: int = 0, step: int = 1000) -> tuple[list[str], Windows]:
    """Feed rows (numbers divided by blanks) to one slot; the value of row r is r % 10, its offset the place in ``rows``."""
    windows = Windows(shape, max_slots=1)
    slot = windows.open(phase=phase, partition=0)
    assert slot == 0
    numbers = [int(row) for row in rows.split()]
    due: list[Due] = []
    for begin in range(0, len(numbers), step):
        part = np.array(numbers[begin : begin + step], np.int64)
        due += windows.push(
            np.zeros(len(part), np.int64),
            part,
            np.arange(begin, begin + len(part), dtype=np.int64),
            np.repeat((part % 10).astype(np.float32)[:, None], shape.dims, axis=1),
            np.full(len(part), resume_at, np.int64),
        )
    return [drawing for one in due for drawing in draw(one)], windows


def draw(due: Due) -> list[str]:
    """``end row: window`` of each, from its first metric."""
    drawn = []
    for end, values, mask in zip(due.end_rows, due.values[:, :, 0], due.mask[:, :, 0], strict=True):
        signs = ["?" if np.isnan(value) else f"{value:.0f}" if seen else "." for value, seen in zip(values, mask, strict=True)]
        drawn.append(f"{end}: {''.join(signs)}")
    return drawn


PLAIN = Shape(dims=1, window=4, stride=2)


def test_a_window_ends_every_stride_rows_once_it_is_full() -> None:
    drawn, _ = feed(PLAIN, "0 1 2 3 4 5 6 7 8")
    # rows 0 1 2 3 4 5 6 7 8
    #      └──── 4 ┘          not 2: only three rows have passed
    #          └──── 6 ┘
    #              └──── 8 ┘
    assert drawn == ["4: 1234", "6: 3456", "8: 5678"]


@pytest.mark.parametrize("start", range(5))
def test_the_phase_follows_from_the_data_and_not_from_when_we_began(start: int) -> None:
    drawn, _ = feed(PLAIN, " ".join(str(row) for row in range(start, 20)), phase=1)
    assert [int(one.split(":")[0]) for one in drawn] == [end for end in range(3, 20, 2) if end >= start + 3]


def test_the_same_row_twice_counts_once() -> None:
    drawn, windows = feed(PLAIN, "0 1 1 2 3 3 4")
    assert drawn == ["4: 1234"]
    assert windows.counts[DUPLICATE] == 2


def test_a_late_row_without_lateness_is_dropped() -> None:
    drawn, windows = feed(Shape(1, window=4, stride=2, max_gap=1), "0 1 3 2 4")
    assert drawn == ["4: 1.34"]
    assert windows.counts[LATE] == 1


def test_a_late_row_in_time_enters_later_windows_and_leaves_the_earlier_as_they_were() -> None:
    drawn, windows = feed(Shape(1, window=4, stride=2, max_gap=2, lateness=3), "0 1 2 4 3 5 6")
    # 4 comes before 3: the window that ends at 4 was out already, the one at 6 has row 3
    assert drawn == ["4: 12.4", "6: 3456"]
    assert windows.counts[LATE] == 0


def test_a_late_row_is_carried_into_the_gap_behind_it() -> None:
    _, windows = feed(Shape(1, window=5, stride=1, max_gap=3, lateness=4), "1 2 6 4")
    zero = np.zeros(1, np.int64)
    due = windows.push(zero, np.array([7]), np.array([4]), np.array([[7]], np.float32), zero)
    # rows 3 to 7 hold 2 (carried), 4, 4 (carried from the late row), 6, 7
    assert due[0].values[0, :, 0].tolist() == [2, 4, 4, 6, 7]
    assert due[0].mask[0, :, 0].tolist() == [False, True, False, True, True]


def test_a_row_later_than_allowed_is_counted_and_dropped() -> None:
    _, windows = feed(Shape(1, window=4, stride=2, max_gap=9, lateness=2), "0 9 6 7 8")
    assert windows.counts[LATE] == 1  # 6 is three rows late, 7 and 8 are in time


def test_a_short_gap_is_carried_forward_and_masked() -> None:
    drawn, windows = feed(Shape(1, window=4, stride=2, max_gap=2), "0 1 4 5 6")
    # the window that ends at row 4 is due when row 4 arrives
    assert drawn == ["4: 1..4", "6: .456"]
    assert windows.counts[RESETS] == 0


def test_a_window_that_ends_inside_a_gap_is_due_when_the_next_row_arrives() -> None:
    drawn, _ = feed(Shape(1, window=4, stride=2, max_gap=3), "0 1 2 3 6")
    assert drawn == ["4: 123.", "6: 3..6"]


def test_a_long_gap_begins_a_new_run() -> None:
    drawn, windows = feed(Shape(1, window=4, stride=2, max_gap=2), "0 1 2 3 4 8 9 10 11 12")
    #      0 1 2 3 4 . . . 8 9 10 11 12       three rows are missing, two are allowed
    assert drawn == ["4: 1234", "12: 9012"]
    assert windows.counts[RESETS] == 1


def test_a_row_from_before_the_run_is_late() -> None:
    _, windows = feed(Shape(1, window=4, stride=2, max_gap=1, lateness=4), "0 10 9 8")
    assert windows.counts[LATE] == 2


def test_a_metric_never_seen_in_this_run_is_nan_and_one_seen_before_is_carried() -> None:
    windows = Windows(Shape(2, window=3, stride=1), max_slots=1)
    slot = windows.open(phase=0, partition=0)
    assert slot == 0
    nan = np.nan
    values = np.array([[1, nan], [2, nan], [nan, 5], [4, nan]], np.float32)
    zeros = np.zeros(4, np.int64)
    (due,) = windows.push(zeros, np.arange(4), np.arange(4), values, zeros)
    np.testing.assert_array_equal(due.values[0], np.array([[1, nan], [2, nan], [2, 5]], np.float32))
    np.testing.assert_array_equal(due.values[1], np.array([[2, nan], [2, 5], [4, 5]], np.float32))
    assert due.mask[1].tolist() == [[True, False], [False, True], [True, False]]


def test_records_before_resume_at_only_refill() -> None:
    drawn, _ = feed(PLAIN, "0 1 2 3 4 5 6 7 8", resume_at=6)
    assert drawn == ["6: 3456", "8: 5678"]


def test_a_window_names_the_records_that_reproduce_it() -> None:
    windows = Windows(Shape(1, window=3, stride=1, max_gap=2), max_slots=1)
    windows.open(phase=0, partition=0)
    zeros = np.zeros(4, np.int64)
    (due,) = windows.push(zeros, np.array([0, 1, 3, 4]), np.array([40, 41, 45, 49]), np.ones((4, 1), np.float32), zeros)
    assert due.end_rows.tolist() == [2, 3, 4]
    assert due.first_offsets.tolist() == [40, 41, 45]
    assert due.last_offsets.tolist() == [41, 45, 49]


def test_coverage_below_the_least_is_counted() -> None:
    _, windows = feed(Shape(1, window=4, stride=2, max_gap=5, min_coverage=0.5), "0 1 2 8")
    # windows at 4 (12..), 6 (2...) and 8 (...8): the last two have one value of four
    assert windows.counts[LOW_COVERAGE] == 2


def test_windows_of_many_rows_survive_the_end_of_the_tape() -> None:
    shape = Shape(3, window=5, stride=3, max_gap=2)
    rows = 10 * shape.capacity
    drawn, windows = feed(shape, " ".join(map(str, range(rows))))
    assert len(drawn) == len([end for end in range(4, rows) if end % 3 == 0])
    for one in drawn:
        end, window = one.split(": ")
        assert window == "".join(str(row % 10) for row in range(int(end) - 4, int(end) + 1))
    oldest = windows.oldest_offset(0)
    assert oldest is not None
    assert rows - shape.capacity <= oldest <= rows - shape.keep


def test_more_windows_than_one_batch_holds_come_in_several() -> None:
    shape = Shape(2, window=4, stride=1)
    windows = Windows(shape, max_slots=1, batch_bytes=5 * 4 * 2 * 10)
    windows.open(phase=0, partition=0)
    zeros = np.zeros(64, np.int64)
    due = windows.push(zeros, np.arange(64), np.arange(64), np.ones((64, 2), np.float32), zeros)
    assert [len(one.slots) for one in due] == [10] * 6 + [1]
    assert np.concatenate([one.end_rows for one in due]).tolist() == list(range(3, 64))


def test_slots_are_bounded_and_used_again() -> None:
    windows = Windows(Shape(1, window=2, stride=1), max_slots=2)
    assert [windows.open(phase=0, partition=at) for at in (0, 1, 2)] == [0, 1, None]
    one = np.ones(1, np.int64)
    windows.push(one, one, one * 7, np.ones((1, 1), np.float32), one)
    assert (windows.oldest_offset(0), windows.oldest_offset(1), len(windows)) == (None, 7, 2)
    windows.close(1)
    assert (windows.oldest_offset(1), len(windows)) == (None, 1)
    assert windows.open(phase=0, partition=5) == 1
    assert windows.push(one, one * 2, one, np.ones((1, 1), np.float32), one * 0) == []  # the old run is forgotten


def test_memory_is_what_the_shape_says() -> None:
    shape = Shape(8, window=100, stride=10, max_gap=5)
    windows = Windows(shape, max_slots=1000)
    for _ in range(1000):
        windows.open(phase=0, partition=0)
    tapes = (windows._head, windows._values, windows._mask, windows._offsets)
    assert windows.nbytes == sum(tape.nbytes for tape in tapes) == 1000 * shape.bytes_per_slot
    assert 100_000 * shape.bytes_per_slot < 0.7e9
