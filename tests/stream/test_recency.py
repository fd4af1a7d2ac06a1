"""The time of a partition is what most entities say that sent lately, whatever the others claim."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from service.clock import ManualClock
from service.settings import StreamSettings
from service.stream.processor import StreamProcessor
from tests.stream.test_processor import SCHEMA, sample

ROWS, IDLE = 150, 60


@settings(deadline=None, max_examples=40)
@given(
    st.integers(2, 6), st.lists(st.integers(-(10**6), 10**6), max_size=2), st.integers(0, 10**7), st.randoms(use_true_random=False)
)
def test_entities_whose_clocks_are_wrong_expire_nobody_whose_clock_is_right(
    right: int, shifts: list[int], behind: int, chance: random.Random
) -> None:
    start, shifts = 10**8, shifts[: right - 1]
    clock = ManualClock((start + ROWS + behind) * 1000)
    one = StreamProcessor(SCHEMA, window=3, stride=1, settings=StreamSettings(idle_after_seconds=IDLE), clock=clock)
    expired: set[str] = set()
    for row in range(start, start + ROWS):
        samples = [sample(f"right-{at}", row) for at in range(right)]
        samples += [sample(f"wrong-{at}", row + shift) for at, shift in enumerate(shifts)]
        chance.shuffle(samples)
        cut = chance.randrange(len(samples))
        for part in (samples[:cut], samples[cut:]):
            one.add(part, {})
            expired |= {name for _, name in one.take_expired()}
    assert not any(name.startswith("right") for name in expired)
