"""Reads batches of metrics messages of the common form in compiled code: bytes in, columns out.

It runs without the interpreter's lock, so decoding runs in parallel with scoring. Messages of any other form (escapes, other
types, numbers of more than 18 digits, everything invalid) are marked ``LEFT`` for the readers that know all of JSON. The scanner
itself rejects nothing. Unknown metrics are skipped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.compiled import kernel
from service.domain import F32, F64, I64
from service.sources.codecs.json_kernels import (
    POWERS,
    Bytes,
    equal_bytes,
    is_ascii,
    is_null,
    packed,
    read_integer,
    read_number,
    skip_space,
    string_end,
)

READ, LEFT = 0, 1

_ESCAPED = re.compile(r'["\\\x00-\x1f]')
_NEVER_FOUND = b"\x00"

_ENTITY, _TIMESTAMP, _VALUES, _LABELS = (np.frombuffer(word, np.uint8) for word in (b"entity", b"timestamp", b"values", b"labels"))


class Scanner:
    """Reads messages whose values are named ``metrics``, fastest in that order, or are an array in that order."""

    def __init__(self, metrics: Sequence[str]) -> None:
        self._dims = len(metrics)
        # A name that JSON must escape never appears verbatim, so nothing is compared with it.
        self._names, self._name_ends = packed([_NEVER_FOUND if _ESCAPED.search(name) else name.encode() for name in metrics])
        self.scan([b"{}"], [b""])  # compiles

    def scan(self, values: Sequence[bytes], entities: Sequence[bytes]) -> tuple[NDArray[np.int8], I64, F32, I64, Bytes]:
        """Of n messages: ``READ`` or ``LEFT`` int8 (n,); timestamps in ms int64 (n,); values float32 (n, dims), NaN where missing;
        begin and end of the labels' object int64 (n, 2), (0, 0) without labels; and the joined bytes that these index.

        A message that names another entity than the one in ``entities`` is ``LEFT``. The other outputs of a message that is
        ``LEFT`` are undefined.
        """
        n = len(values)
        text, ends = packed(values)
        entity_text, entity_ends = packed(entities)
        states = np.full(n, LEFT, np.int8)
        timestamps = np.zeros(n, np.int64)
        matrix = np.empty((n, self._dims), np.float32)
        labels = np.zeros((n, 2), np.int64)
        _scan_messages(
            text, ends, entity_text, entity_ends, self._names, self._name_ends, POWERS, states, timestamps, matrix, labels
        )
        return states, timestamps, matrix, labels, text


@kernel
def _find_name(text: Bytes, begin: int, end: int, names: Bytes, name_ends: I64, guess: int) -> int:
    """The index of the name that stands there, searched from ``guess`` on; the number of names where it is none of them."""
    count = len(name_ends)
    for step in range(count):
        at = guess + step
        if at >= count:
            at -= count
        if equal_bytes(text, begin, end, names, name_ends[at - 1] if at else 0, name_ends[at]):
            return at
    return count


@kernel
def _read_values(text: Bytes, at: int, end: int, names: Bytes, name_ends: I64, powers: F64, out: F32) -> int:
    """Read the object or array of values that opens at ``at`` into ``out``; the place behind it, or -1."""
    dims = out.shape[0]
    listed = text[at] == 91
    close = 93 if listed else 125
    out[:] = np.nan
    at = skip_space(text, at + 1, end)
    if at < end and text[at] == close:
        return -1 if listed else at + 1
    index = 0
    while at < end:
        if listed:
            if index == dims:
                return -1
        else:
            # Compare with the expected name first, inline: a call would cost more than the comparison.
            found = False
            quote = at
            if index < dims:
                begin = name_ends[index - 1] if index else 0
                length = name_ends[index] - begin
                quote = at + 1 + length
                if quote < end and text[at] == 34 and text[quote] == 34:
                    i = 0
                    while i < length and text[at + 1 + i] == names[begin + i]:
                        i += 1
                    found = i == length
            if not found:
                quote = string_end(text, at, end)
                if quote < 0:
                    return -1
                index = _find_name(text, at + 1, quote, names, name_ends, index)
                if index == dims and not is_ascii(text, at + 1, quote):  # may not be UTF-8; a name of ours is
                    return -1
            at = quote + 1
            if text[at] <= 32:
                at = skip_space(text, at, end)
            if at >= end or text[at] != 58:
                return -1
            at += 1
            if text[at] <= 32:
                at = skip_space(text, at, end)
        value = np.nan
        if text[at] == 110:
            if not is_null(text, at, end):
                return -1
            at += 4
        else:
            at, value = read_number(text, at, end, powers)
            if at < 0:
                return -1
        if index < dims:  # else a metric that the schema does not have
            out[index] = value
            index += 1
        if text[at] <= 32:
            at = skip_space(text, at, end)
        if at >= end:
            return -1
        if text[at] == close:
            return -1 if listed and index < dims else at + 1
        if text[at] != 44:
            return -1
        at += 1
        if text[at] <= 32:
            at = skip_space(text, at, end)
    return -1


@kernel
def _labels_end(text: Bytes, at: int, end: int) -> int:
    """The place behind the object of plain strings that opens at ``at``; -1 where it holds anything else."""
    at = skip_space(text, at + 1, end)
    if at < end and text[at] == 125:
        return at + 1
    while True:
        at = string_end(text, at, end)
        if at < 0:
            return -1
        at = skip_space(text, at + 1, end)
        if at >= end or text[at] != 58:
            return -1
        at = string_end(text, skip_space(text, at + 1, end), end)
        if at < 0:
            return -1
        at = skip_space(text, at + 1, end)
        if at >= end or (text[at] != 44 and text[at] != 125):
            return -1
        if text[at] == 125:
            return at + 1
        at = skip_space(text, at + 1, end)


@kernel
def _read_message(
    text: Bytes, at: int, end: int, entity_text: Bytes, entity_begin: int, entity_end: int, names: Bytes, name_ends: I64,
    powers: F64, row: int, timestamps: I64, matrix: F32, labels: I64,
) -> bool:  # fmt: skip
    """Write the message into ``row`` of the columns; False where it could not be read."""
    seen_time = seen_values = False
    at = skip_space(text, at, end)
    if at >= end or text[at] != 123:
        return False
    at = skip_space(text, at + 1, end)
    while True:
        begin = at
        quote = string_end(text, at, end)
        if quote < 0:
            return False
        at = skip_space(text, quote + 1, end)
        if at >= end or text[at] != 58:
            return False
        at = skip_space(text, at + 1, end)
        if at >= end:
            return False
        if equal_bytes(text, begin + 1, quote, _ENTITY, 0, 6):
            closing = string_end(text, at, end)
            if closing < 0 or not equal_bytes(text, at + 1, closing, entity_text, entity_begin, entity_end):
                return False
            at = closing + 1
        elif equal_bytes(text, begin + 1, quote, _TIMESTAMP, 0, 9):
            at, timestamps[row] = read_integer(text, at, end)
            seen_time = True
        elif equal_bytes(text, begin + 1, quote, _VALUES, 0, 6):
            if text[at] != 123 and text[at] != 91:
                return False
            at = _read_values(text, at, end, names, name_ends, powers, matrix[row])
            seen_values = True
        elif equal_bytes(text, begin + 1, quote, _LABELS, 0, 6):
            if labels[row, 1]:  # only the last ones are decoded, and those before could be anything
                return False
            labels[row, 0] = at
            at = _labels_end(text, at, end) if text[at] == 123 else -1
            labels[row, 1] = at
        else:
            return False
        if at < 0:
            return False
        at = skip_space(text, at, end)
        if at >= end:
            return False
        if text[at] == 125:
            break
        if text[at] != 44:
            return False
        at = skip_space(text, at + 1, end)
    return seen_time and seen_values and skip_space(text, at + 1, end) == end


@kernel
def _scan_messages(
    text: Bytes, ends: I64, entity_text: Bytes, entity_ends: I64, names: Bytes, name_ends: I64, powers: F64,
    states: NDArray[np.int8], timestamps: I64, matrix: F32, labels: I64,
) -> None:  # fmt: skip
    begin = entity_begin = 0
    for row in range(ends.shape[0]):
        end, entity_end = ends[row], entity_ends[row]
        if _read_message(
            text, begin, end, entity_text, entity_begin, entity_end, names, name_ends, powers, row, timestamps, matrix, labels
        ):
            states[row] = READ
        begin, entity_begin = end, entity_end
