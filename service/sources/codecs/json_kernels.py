"""The parts of JSON that the scanner reads, as compiled functions: white space, strings, numbers, ``null``.

Every function gets the joined bytes of many messages and a place in them. The bytes end in zeros, so a function may look a few
bytes past the last message. ``read_number`` may look into the message behind, and then finds no number.

A number becomes the float32 nearest to the decimal, exactly as through a correctly rounded float64. A mantissa below 10**18 times
an exact power of ten is wrong by at most 2 units in the last place of a float64 (Clinger, "How to read floating point numbers
accurately", 1990). Where that could change the float32, the number is not read.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.compiled import kernel
from service.domain import F64, I64

Bytes = NDArray[np.uint8]

MOST_DIGITS = 18
LARGEST_POWER = 22  # 10**22 is the largest power of ten that a float64 holds exactly
POWERS = np.array([float(10**at) for at in range(LARGEST_POWER + 1)])
_RELATIVE_ERROR = 6e-16  # upper bound for a float64 made of such a mantissa and power of ten, with some margin
# Outside of these a float32 is subnormal or infinite.
_SMALLEST, _LARGEST = 1.2e-38, 3.4e38


def packed(parts: Sequence[bytes]) -> tuple[Bytes, I64]:
    """The parts joined, uint8, and where each ends, int64 (n,). Two zeros follow the last part."""
    joined = np.frombuffer(b"".join([*parts, b"\0\0"]), np.uint8)
    return joined, np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)))


@kernel
def skip_space(text: Bytes, at: int, end: int) -> int:
    """The first place from ``at`` on that is not white space; ``end`` where there is none."""
    while at < end and (text[at] == 32 or text[at] == 10 or text[at] == 13 or text[at] == 9):
        at += 1
    return at


@kernel
def string_end(text: Bytes, at: int, end: int) -> int:
    """The closing quote of the string that opens at ``at``; -1 for a string with escapes, control characters or no end."""
    if at >= end or text[at] != 34:
        return -1
    at += 1
    while at < end and text[at] != 34:
        if text[at] == 92 or text[at] < 32:
            return -1
        at += 1
    return at if at < end else -1


@kernel
def equal_bytes(text: Bytes, begin: int, end: int, other: Bytes, other_begin: int, other_end: int) -> bool:
    """Whether two ranges of bytes are equal."""
    if end - begin != other_end - other_begin:
        return False
    for i in range(end - begin):  # noqa: SIM110  # numba compiles the loop, not the generator
        if text[begin + i] != other[other_begin + i]:
            return False
    return True


@kernel
def is_ascii(text: Bytes, begin: int, end: int) -> bool:
    """Whether a range of bytes is ASCII."""
    for i in range(begin, end):  # noqa: SIM110  # as above
        if text[i] >= 128:
            return False
    return True


@kernel
def is_null(text: Bytes, at: int, end: int) -> bool:
    """Whether ``null`` stands at ``at``."""
    return at + 4 <= end and text[at] == 110 and text[at + 1] == 117 and text[at + 2] == 108 and text[at + 3] == 108


@kernel
def read_number(text: Bytes, at: int, end: int, powers: F64) -> tuple[int, float]:
    """Where the JSON number at ``at`` ends, and its value; -1 where there is no number, or none that can be read exactly."""
    negative = text[at] == 45
    if negative:
        at += 1
    begin, mantissa, power = at, 0, 0
    while 48 <= text[at] <= 57:
        mantissa = mantissa * 10 + (text[at] - 48)
        at += 1
    digits = at - begin
    if digits == 0 or (text[begin] == 48 and digits > 1):
        return -1, 0.0
    if text[at] == 46:
        at += 1
        fraction = at
        while 48 <= text[at] <= 57:
            mantissa = mantissa * 10 + (text[at] - 48)
            at += 1
        power = fraction - at
        digits -= power
        if power == 0:
            return -1, 0.0
    while digits > MOST_DIGITS and (text[begin] == 48 or text[begin] == 46):  # leading zeros are no digits
        digits -= text[begin] == 48
        begin += 1
    if digits > MOST_DIGITS:
        return -1, 0.0
    if text[at] == 101 or text[at] == 69:
        at += 1
        down = text[at] == 45
        if text[at] == 45 or text[at] == 43:
            at += 1
        begin, exponent = at, 0
        while 48 <= text[at] <= 57:
            exponent = min(exponent * 10 + (text[at] - 48), 9999)
            at += 1
        if at == begin:
            return -1, 0.0
        power += -exponent if down else exponent
    if at > end:  # it would end in the message behind
        return -1, 0.0
    if mantissa == 0:
        return at, -0.0 if negative else 0.0
    if power > LARGEST_POWER or power < -LARGEST_POWER:
        return -1, 0.0
    value = mantissa * powers[power] if power >= 0 else mantissa / powers[-power]
    if (
        value < _SMALLEST
        or value > _LARGEST
        or np.float32(value * (1.0 - _RELATIVE_ERROR)) != np.float32(value * (1.0 + _RELATIVE_ERROR))
    ):
        return -1, 0.0
    return at, -value if negative else value


@kernel
def read_integer(text: Bytes, at: int, end: int) -> tuple[int, int]:
    """Where the whole number at ``at`` ends, and its value; -1 for anything else."""
    begin, value = at, 0
    while at < end and 48 <= text[at] <= 57 and at - begin < MOST_DIGITS:
        value = value * 10 + (text[at] - 48)
        at += 1
    if at == begin or (text[begin] == 48 and at > begin + 1) or (at < end and text[at] in (46, 69, 101, 48)):
        return -1, 0
    return at, value
