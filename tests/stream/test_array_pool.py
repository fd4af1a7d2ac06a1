"""Memory that is lent and comes home by itself."""

from __future__ import annotations

import gc

import numpy as np

from service.stream.array_pool import ArrayPool
from service.stream.windows import Shape, Windows


def address(array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> int:
    return int(array.__array_interface__["data"][0])


def test_a_block_comes_home_only_when_the_last_array_that_looks_at_it_is_gone() -> None:
    buffers = ArrayPool(4096, max_free=2)
    first = buffers.borrow()
    at = address(first)
    view = first[100:200].view(np.float32)
    view[:] = 7.0
    del first
    gc.collect()
    second = buffers.borrow()
    assert address(second) != at
    assert (view == 7.0).all()
    del view
    gc.collect()
    assert address(buffers.borrow()) == at


def test_no_more_blocks_are_kept_than_was_said() -> None:
    buffers = ArrayPool(1 << 12, max_free=1)
    lent = [buffers.borrow() for _ in range(3)]
    homes = {address(one) for one in lent}
    del lent
    gc.collect()
    again = [buffers.borrow() for _ in range(3)]
    assert len(again) == 3
    assert len(buffers._free) == 0
    assert address(again[0]) in homes


def test_windows_somebody_still_looks_at_are_not_written_over() -> None:
    windows = Windows(Shape(dims=3, window=4, stride=1), max_slots=1)
    slot = windows.open(phase=0, partition=0)
    assert slot is not None
    held = []
    for row in range(40):
        one = np.array([row], np.int64)
        due = windows.push(np.array([slot]), one, one, np.full((1, 3), row, np.float32), np.zeros(1, np.int64))
        held += [(row, part.values, part.mask) for part in due]
    assert len(held) == 37
    for row, values, mask in held:
        np.testing.assert_array_equal(values[0, :, 0], np.arange(row - 3, row + 1))
        assert mask.all()
