"""Metrics messages of the ordinary form, read by the thousand without the interpreter: bytes in, columns out.

Compiled, and free of the interpreter's lock, so that reading really runs beside scoring. It takes what producers send day
after day and leaves everything else (escapes, other types, unknown metrics, numbers of more than 18 digits, whatever is
wrong) to the readers that know all of JSON; it refuses nothing, it only says ``LEFT``.

Numbers come out as the float32 nearest to the decimal, exactly as by way of a correctly rounded float64: a mantissa below
10**18 times an exact power of ten is wrong by at most 2 units in the last place of a float64 (Clinger, "How to read
floating point numbers accurately", 1990), and where that could tip the float32 the message is left to the others.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.compiled import kernel
from service.domain import F32, F64, I64

Bytes = NDArray[np.uint8]

READ, LEFT = 0, 1

_ESCAPED = re.compile(r'["\\\x00-\x1f]')
_UNSEEN = b"\x00"

MOST_DIGITS = 18
LARGEST_POWER = 22  # 10**22 is the largest power of ten that a float64 holds exactly
_ENTITY, _TIMESTAMP, _VALUES, _LABELS = (np.frombuffer(word, np.uint8) for word in (b"entity", b"timestamp", b"values", b"labels"))
_POWERS = np.array([float(10**at) for at in range(LARGEST_POWER + 1)])
# How far a float64 made of such a mantissa and a power of ten may be from the decimal, as a share of it, and some more.
_DOUBT = 6e-16
# Beyond these a float32 is subnormal or infinite.
_SMALLEST, _LARGEST = 1.2e-38, 3.4e38


class Scanner:
    """Reads messages whose values carry the names ``metrics``, in that order if it is to be quick, or none."""

    def __init__(self, metrics: Sequence[str]) -> None:
        self._dims = len(metrics)
        # A name that JSON must escape never stands there as it is.
        self._names, self._name_ends = packed([_UNSEEN if _ESCAPED.search(name) else name.encode() for name in metrics])
        self.scan([b"{}"], [b""])  # compiles

    def scan(self, values: Sequence[bytes], entities: Sequence[bytes]) -> tuple[NDArray[np.int8], I64, F32, I64, Bytes]:
        """Of n messages: ``READ`` or ``LEFT`` int8 (n,), timestamps in ms int64 (n,), values float32 (n, dims) with NaN for
        missing, and where the labels' object lies, int64 (n, 2), in the joined bytes, the last item; (0, 0) without labels.

        A message that names another entity than the one in ``entities`` is left. What a message that is left got is undefined.
        """
        n = len(values)
        text, ends = packed(values)
        named, named_ends = packed(entities)
        states = np.full(n, LEFT, np.int8)
        timestamps = np.zeros(n, np.int64)
        matrix = np.empty((n, self._dims), np.float32)
        labels = np.zeros((n, 2), np.int64)
        _scan(text, ends, named, named_ends, self._names, self._name_ends, _POWERS, states, timestamps, matrix, labels)
        return states, timestamps, matrix, labels, text


def packed(parts: Sequence[bytes]) -> tuple[Bytes, I64]:
    """The parts joined, uint8, and where each ends, int64 (n,). Behind the last stand zeros, so that one may look too far."""
    joined = np.frombuffer(b"".join([*parts, b"\0\0"]), np.uint8)
    return joined, np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)))


@kernel
def _space(text: Bytes, at: int, end: int) -> int:
    """The first place from ``at`` on that is not white space."""
    while at < end and (text[at] == 32 or text[at] == 10 or text[at] == 13 or text[at] == 9):
        at += 1
    return at


@kernel
def _string(text: Bytes, at: int, end: int) -> int:
    """Where the string that opens at ``at`` has its closing quote; -1 for one with escapes, or control characters, or no end."""
    if at >= end or text[at] != 34:
        return -1
    at += 1
    while at < end and text[at] != 34:
        if text[at] == 92 or text[at] < 32:
            return -1
        at += 1
    return at if at < end else -1


@kernel
def _same(text: Bytes, begin: int, end: int, other: Bytes, other_begin: int, other_end: int) -> bool:
    if end - begin != other_end - other_begin:
        return False
    for i in range(end - begin):  # noqa: SIM110  # numba compiles the loop, not the generator
        if text[begin + i] != other[other_begin + i]:
            return False
    return True


@kernel
def _null(text: Bytes, at: int, end: int) -> bool:
    """Whether ``null`` stands at ``at``."""
    return at + 4 <= end and text[at] == 110 and text[at + 1] == 117 and text[at + 2] == 108 and text[at + 3] == 108


@kernel
def _number(text: Bytes, at: int, end: int, powers: F64) -> tuple[int, float]:
    """Where the JSON number at ``at`` ends, and its value; -1 for what is no number, or not one to read here."""
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
    while digits > MOST_DIGITS and (text[begin] == 48 or text[begin] == 46):  # zeros in front count for nothing
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
    if at > end:  # what stands behind the message is another's
        return -1, 0.0
    if mantissa == 0:
        return at, -0.0 if negative else 0.0
    if power > LARGEST_POWER or power < -LARGEST_POWER:
        return -1, 0.0
    value = mantissa * powers[power] if power >= 0 else mantissa / powers[-power]
    if value < _SMALLEST or value > _LARGEST or np.float32(value * (1.0 - _DOUBT)) != np.float32(value * (1.0 + _DOUBT)):
        return -1, 0.0
    return at, -value if negative else value


@kernel
def _timestamp(text: Bytes, at: int, end: int) -> tuple[int, int]:
    """Where the whole number at ``at`` ends, and its value; -1 for anything else."""
    begin, value = at, 0
    while at < end and 48 <= text[at] <= 57 and at - begin < MOST_DIGITS:
        value = value * 10 + (text[at] - 48)
        at += 1
    if at == begin or (text[begin] == 48 and at > begin + 1) or (at < end and text[at] in (46, 69, 101, 48)):
        return -1, 0
    return at, value


@kernel
def _place(text: Bytes, begin: int, end: int, names: Bytes, name_ends: I64, guess: int) -> int:
    """Which of the names stands there, looking from ``guess`` on; their number where none does."""
    count = len(name_ends)
    for step in range(count):
        at = guess + step
        if at >= count:
            at -= count
        if _same(text, begin, end, names, name_ends[at - 1] if at else 0, name_ends[at]):
            return at
    return count


@kernel
def _values(text: Bytes, at: int, end: int, names: Bytes, name_ends: I64, powers: F64, out: F32) -> int:
    """Read the values that open at ``at`` into ``out``; the place behind them, or -1."""
    dims = out.shape[0]
    listed = text[at] == 91
    close = 93 if listed else 125
    out[:] = np.nan
    at = _space(text, at + 1, end)
    if at < end and text[at] == close:
        return -1 if listed else at + 1
    wanted = 0
    while at < end:
        if listed:
            if wanted == dims:
                return -1
        else:
            # The name that is expected, in its ordinary form; written out, as a call would cost more than the look.
            same = False
            quote = at
            if wanted < dims:
                begin = name_ends[wanted - 1] if wanted else 0
                length = name_ends[wanted] - begin
                quote = at + 1 + length
                if quote < end and text[at] == 34 and text[quote] == 34:
                    i = 0
                    while i < length and text[at + 1 + i] == names[begin + i]:
                        i += 1
                    same = i == length
            if not same:
                quote = _string(text, at, end)
                if quote < 0:
                    return -1
                wanted = _place(text, at + 1, quote, names, name_ends, wanted)
            at = quote + 1
            if text[at] <= 32:
                at = _space(text, at, end)
            if at >= end or text[at] != 58:
                return -1
            at += 1
            if text[at] <= 32:
                at = _space(text, at, end)
        value = np.nan
        if text[at] == 110:
            if not _null(text, at, end):
                return -1
            at += 4
        else:
            at, value = _number(text, at, end, powers)
            if at < 0:
                return -1
        if wanted < dims:  # beyond: a metric that nobody asks for
            out[wanted] = value
            wanted += 1
        if text[at] <= 32:
            at = _space(text, at, end)
        if at >= end:
            return -1
        if text[at] == close:
            return -1 if listed and wanted < dims else at + 1
        if text[at] != 44:
            return -1
        at += 1
        if text[at] <= 32:
            at = _space(text, at, end)
    return -1


@kernel
def _labels(text: Bytes, at: int, end: int) -> int:
    """The place behind the object of plain strings that opens at ``at``, or -1."""
    at = _space(text, at + 1, end)
    if at < end and text[at] == 125:
        return at + 1
    while True:
        at = _string(text, at, end)
        if at < 0:
            return -1
        at = _space(text, at + 1, end)
        if at >= end or text[at] != 58:
            return -1
        at = _string(text, _space(text, at + 1, end), end)
        if at < 0:
            return -1
        at = _space(text, at + 1, end)
        if at >= end or (text[at] != 44 and text[at] != 125):
            return -1
        if text[at] == 125:
            return at + 1
        at = _space(text, at + 1, end)


@kernel
def _message(
    text: Bytes, at: int, end: int, named: Bytes, named_begin: int, named_end: int, names: Bytes, name_ends: I64,
    powers: F64, row: int, timestamps: I64, matrix: F32, labels: I64,
) -> bool:  # fmt: skip
    """Whether the message could be read; its fields are written into ``row`` of the columns."""
    seen_time = seen_values = False
    at = _space(text, at, end)
    if at >= end or text[at] != 123:
        return False
    at = _space(text, at + 1, end)
    while True:
        begin = at
        quote = _string(text, at, end)
        if quote < 0:
            return False
        at = _space(text, quote + 1, end)
        if at >= end or text[at] != 58:
            return False
        at = _space(text, at + 1, end)
        if at >= end:
            return False
        if _same(text, begin + 1, quote, _ENTITY, 0, 6):
            closing = _string(text, at, end)
            if closing < 0 or not _same(text, at + 1, closing, named, named_begin, named_end):
                return False
            at = closing + 1
        elif _same(text, begin + 1, quote, _TIMESTAMP, 0, 9):
            at, timestamps[row] = _timestamp(text, at, end)
            seen_time = True
        elif _same(text, begin + 1, quote, _VALUES, 0, 6):
            if text[at] != 123 and text[at] != 91:
                return False
            at = _values(text, at, end, names, name_ends, powers, matrix[row])
            seen_values = True
        elif _same(text, begin + 1, quote, _LABELS, 0, 6):
            labels[row, 0] = at
            at = _labels(text, at, end) if text[at] == 123 else -1
            labels[row, 1] = at
        else:
            return False
        if at < 0:
            return False
        at = _space(text, at, end)
        if at >= end:
            return False
        if text[at] == 125:
            break
        if text[at] != 44:
            return False
        at = _space(text, at + 1, end)
    return seen_time and seen_values and _space(text, at + 1, end) == end


@kernel
def _scan(
    text: Bytes, ends: I64, named: Bytes, named_ends: I64, names: Bytes, name_ends: I64, powers: F64,
    states: NDArray[np.int8], timestamps: I64, matrix: F32, labels: I64,
) -> None:  # fmt: skip
    begin = named_begin = 0
    for row in range(ends.shape[0]):
        end, named_end = ends[row], named_ends[row]
        if _message(text, begin, end, named, named_begin, named_end, names, name_ends, powers, row, timestamps, matrix, labels):
            states[row] = READ
        begin, named_begin = end, named_end
