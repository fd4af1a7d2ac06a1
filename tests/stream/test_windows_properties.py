"""Windows against a tiny reference that keeps everything and looks it up row by row."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from service.detectors.windowing.early_windows import MOST_CHANGE, MOST_EARLY, EarlyWindows
from service.domain import F32
from service.stream.window_buffers import DUPLICATE, LATE, RESETS
from service.stream.windows import Shape, Windows

Arrival = tuple[int, int, list[float | None]]  # entity, row, values
Window = tuple[int, int, int, int, list[list[float | None]], list[list[bool]]]  # entity, end row, first and last offset, …


@dataclass
class Reference:
    """One entity, the slow and obvious way."""

    shape: Shape
    phase: int
    start: int = 0
    newest: int | None = None
    seen: dict[int, tuple[int, list[float | None]]] = field(default_factory=dict)
    late: int = 0
    duplicate: int = 0
    resets: int = 0
    beyond: float | None = None
    looked: int = 0
    early: int = 0
    earlies: set[int] = field(default_factory=set)

    def push(
        self, row: int, offset: int, values: list[float | None]
    ) -> list[tuple[int, int, int, list[list[float | None]], list[list[bool]]]]:
        shape = self.shape
        if self.newest is None or row - self.newest > shape.max_gap + 1:
            self.resets += self.newest is not None
            self.seen, self.start, self.newest, first = {row: (offset, values)}, row, row, row
            self.looked, self.early, self.earlies = row, 0, set()
        elif row > self.newest:
            first, self.newest = self.newest + 1, row
            self.seen[row] = (offset, values)
        else:
            if row in self.seen:
                self.duplicate += 1
            elif row < self.start or self.newest - row > shape.lateness:
                self.late += 1
            else:
                self.seen[row] = (offset, values)
            return []
        ends = [end for end in range(first, row + 1) if self.due(end, row)]
        return [self.window(end) for end in ends if end - self.start + 1 >= shape.window]

    def due(self, end: int, row: int) -> bool:
        if (end + self.phase) % self.shape.stride == 0:
            self.looked, self.early = end, 0
            return True
        if end == row and self.beyond is not None and self.early < MOST_EARLY and self.change(row) > self.beyond:
            self.looked, self.early = row, self.early + 1
            self.earlies.add(row)
            return True
        if end - self.shape.stride in self.earlies:
            self.looked = end
            return True
        return False

    def change(self, row: int) -> float:
        if self.looked not in self.seen:
            return 0.0
        pairs = zip(self.seen[row][1], self.seen[self.looked][1], strict=True)
        return sum(min(abs(new - old) * UNIT, MOST_CHANGE) for new, old in pairs if new is not None and old is not None)

    def window(self, end: int) -> tuple[int, int, int, list[list[float | None]], list[list[bool]]]:
        rows = range(end - self.shape.window + 1, end + 1)
        offsets = [self.seen[row][0] for row in rows if row in self.seen]
        values = [[self.value(row, metric) for metric in range(self.shape.dims)] for row in rows]
        mask = [[row in self.seen and self.seen[row][1][metric] is not None for metric in range(self.shape.dims)] for row in rows]
        return end, min(offsets, default=2**62), max(offsets, default=-1), values, mask

    def value(self, row: int, metric: int) -> float | None:
        while row >= self.start:
            if row in self.seen and self.seen[row][1][metric] is not None:
                return self.seen[row][1][metric]
            row -= 1
        return None


@st.composite
def streams(draw: st.DrawFn, dims: int | None = None) -> tuple[Shape, list[Arrival]]:
    """Rows that mostly go forward by one, sometimes by more, back, or far ahead; of up to three entities."""
    window = draw(st.integers(1, 10))
    shape = Shape(
        dims=dims or draw(st.integers(1, 3)),
        window=window,
        stride=draw(st.integers(1, 5)),
        max_gap=draw(st.integers(0, 4)),
        lateness=draw(st.integers(0, window)),
        slack=draw(st.integers(1, 3)),  # so that the tape moves all the time
    )
    entities = draw(st.integers(1, 2))
    steps = draw(
        st.lists(st.tuples(st.integers(0, entities - 1), _STEP, st.integers(0, 2**shape.dims - 1)), min_size=20, max_size=150)
    )
    newest = [draw(st.integers(0, 50)) for _ in range(entities)]
    arrivals: list[Arrival] = []
    for at, (entity, step, lacking) in enumerate(steps):
        row = max(0, newest[entity] + step)
        newest[entity] = max(newest[entity], row)
        # At least one value: a message without any is refused by the codec.
        observed = [metric == at % shape.dims or not lacking >> metric & 1 for metric in range(shape.dims)]
        arrivals.append((entity, row, [float(at * 10 + metric) if there else None for metric, there in enumerate(observed)]))
    return shape, arrivals


UNIT = 0.125  # of a metric's change; a metric rises by 10 from one arrival to the next
_BEYOND = st.sampled_from([None, 1.5, 3.0, 11.0, 25.0])
_STEP = st.sampled_from([1] * 10 + [0, 2, 2, 3, 4, 5, 6, 30, -1, -1, -2, -3, -5, -9])


def run(
    shape: Shape,
    arrivals: list[Arrival],
    *,
    beyond: float | None = None,
    begin: int = 0,
    resume_at: int = 0,
    together: int = 1000,
) -> tuple[list[Window], Windows]:
    """Feed the arrivals from ``begin`` on; the offset of one is its place in the list."""
    early = EarlyWindows(np.full((1, shape.dims), UNIT, np.float32), beyond) if beyond is not None else None
    windows = Windows(shape, max_slots=3, early=early)
    for entity in range(3):
        assert windows.open(phase=entity, partition=0) == entity
    out: list[Window] = []
    for at in range(begin, len(arrivals), together):
        part = arrivals[at : at + together]
        values: F32 = np.array([[np.nan if value is None else value for value in row] for _, _, row in part], np.float32)
        due = windows.push(
            np.array([entity for entity, _, _ in part], np.int64),
            np.array([row for _, row, _ in part], np.int64),
            np.arange(at, at + len(part), dtype=np.int64),
            values.reshape(len(part), shape.dims),
            np.full(len(part), resume_at, np.int64),
        )
        for one in due:
            for i in range(len(one.slots)):
                told = [[None if np.isnan(value) else float(value) for value in row] for row in one.values[i]]
                places = int(one.slots[i]), int(one.end_rows[i]), int(one.first_offsets[i]), int(one.last_offsets[i])
                out.append((*places, told, one.mask[i].tolist()))
    return out, windows


@given(streams(), st.integers(1, 40), _BEYOND)
@settings(max_examples=300, deadline=None)
def test_windows_are_those_of_the_reference_however_rows_are_batched(
    stream: tuple[Shape, list[Arrival]], together: int, beyond: float | None
) -> None:
    shape, arrivals = stream
    beyond = beyond if 2 * shape.stride <= shape.window else None
    references = [Reference(shape, phase, beyond=beyond) for phase in range(3)]
    expected = [
        (entity, *window)
        for at, (entity, row, values) in enumerate(arrivals)
        for window in references[entity].push(row, at, values)
    ]
    got, windows = run(shape, arrivals, beyond=beyond, together=together)
    assert got == expected
    for column, name in ((LATE, "late"), (DUPLICATE, "duplicate"), (RESETS, "resets")):
        # What fell off the tape can no longer be told from a late row.
        if column == RESETS:
            assert windows.counts[column] == sum(getattr(one, name) for one in references)
    assert windows.counts[LATE] + windows.counts[DUPLICATE] == sum(one.late + one.duplicate for one in references)


@given(streams(dims=1), st.data(), _BEYOND)
@settings(max_examples=500, deadline=None)
def test_a_restart_anywhere_refills_to_the_same_windows(
    stream: tuple[Shape, list[Arrival]], data: st.DataObject, beyond: float | None
) -> None:
    shape, arrivals = stream
    beyond = beyond if 2 * shape.stride <= shape.window else None
    cut = data.draw(st.integers(0, len(arrivals)))
    before, windows = run(shape, arrivals[:cut], beyond=beyond)
    oldest = windows.oldest_offset(0)
    after, _ = run(shape, arrivals, beyond=beyond, begin=cut if oldest is None else oldest, resume_at=cut)
    whole, _ = run(shape, arrivals, beyond=beyond)
    assert before + after == whole


@given(streams(), st.data(), _BEYOND)
@settings(max_examples=400, deadline=None)
def test_after_a_restart_only_values_carried_from_before_the_rewind_are_missing(
    stream: tuple[Shape, list[Arrival]], data: st.DataObject, beyond: float | None
) -> None:
    shape, arrivals = stream
    beyond = beyond if 2 * shape.stride <= shape.window else None
    cut = data.draw(st.integers(0, len(arrivals)))
    before, windows = run(shape, arrivals[:cut], beyond=beyond)
    oldest = windows.oldest_offset(0)
    after, _ = run(shape, arrivals, beyond=beyond, begin=cut if oldest is None else oldest, resume_at=cut)
    whole, _ = run(shape, arrivals, beyond=beyond)
    for (*places, values, mask), (*expected_places, expected_values, expected_mask) in zip(before + after, whole, strict=True):
        assert (places, mask) == (expected_places, expected_mask)
        assert all(
            got in (want, None)
            for row, told in zip(values, expected_values, strict=True)
            for got, want in zip(row, told, strict=True)
        )
