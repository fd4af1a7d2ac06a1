"""The compiled reader agrees with the general ones, to the last bit of a float32, or leaves the message to them."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.domain import F32
from service.sources.codecs.scanner import READ, Scanner

METRICS = ("cpu", "mem", "disk io/s", "é")
SCANNER = Scanner(METRICS)


def scan(text: str | bytes, entity: str = "a") -> tuple[bool, int, F32]:
    """Whether it was read, its time and its values."""
    told = text.encode() if isinstance(text, str) else text
    states, timestamps, values, _, _ = SCANNER.scan([told], [entity.encode()])
    return bool(states[0] == READ), int(timestamps[0]), values[0]


def message(values: str, *, head: str = '"entity":"a","timestamp":17') -> str:
    return "{" + head + ',"values":' + values + "}"


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ('{"cpu":1,"mem":2.5,"disk io/s":-3e2,"é":0}', [1, 2.5, -300, 0]),
        ('{"é":4,"mem":2}', [None, 2, None, 4]),
        ('{"unknown":7,"cpu":1,"other":null}', [1, None, None, None]),
        ('{"cpu":1,"cpu":2}', [2, None, None, None]),
        ("[1,null,3,4]", [1, None, 3, 4]),
        ("{ }", [None] * 4),
        (' { "cpu" :\t1 ,\n"mem": null } ', [1, None, None, None]),
    ],
)
def test_ordinary_messages_are_read(text: str, values: list[float | None]) -> None:
    read, timestamp, found = scan(message(text))
    assert read
    assert timestamp == 17
    assert [None if np.isnan(value) else value for value in found.tolist()] == values


@pytest.mark.parametrize(
    "text",
    [
        message("[1,2,3]"),
        message("[1,2,3,4,5]"),
        message('{"cpu":true}'),
        message('{"cpu":"1"}'),
        message('{"cpu":01}'),
        message('{"cpu":1.}'),
        message('{"cpu":.5}'),
        message('{"cpu":+1}'),
        message('{"cpu":1e}'),
        message('{"cpu":--1}'),
        message('{"cpu":nul}'),
        message('{"cpu":NaN}'),
        message('{"cpu":1e39}'),
        message('{"cpu":1,}'),
        message('{"cpu":1'),
        message('{"cpu":1}') + "x",
        message('{"cpu":1}', head='"entity":"b","timestamp":17'),
        message('{"cpu":1}', head='"entity":"a","timestamp":17.5'),
        message('{"cpu":1}', head='"entity":"a","timestamp":017'),
        message('{"cpu":1}', head='"entity":"a","timestamp":-17'),
        message('{"cpu":1}', head='"entity":"a","timestamp":"17"'),
        message('{"cpu":1}', head='"entity":"\\u0061","timestamp":17'),
        message('{"cpu":1}', head='"entitx":"a","timestamp":17'),
        message('{"cpu":1}', head='"entity":"a"'),
        message('{"cpu":1}', head='"entity":"a","timestamp":17,"labels":{"rack":7}'),
        '{"entity":"a","timestamp":17}',
        "",
        "{",
        "{}",
        "[]",
    ],
)
def test_everything_else_is_left(text: str) -> None:
    assert not scan(text)[0]


def test_labels_are_shown_where_they_lie() -> None:
    told = [message("[1,2,3,4]", head='"timestamp":1,"labels": {"rack": "7", "dc":"ä"} '), message("[1,2,3,4]")]
    states, _, _, spans, text = SCANNER.scan([one.encode() for one in told], [b"a", b"a"])
    assert states.tolist() == [READ, READ]
    assert text[spans[0, 0] : spans[0, 1]].tobytes() == '{"rack": "7", "dc":"ä"}'.encode()
    assert spans[1].tolist() == [0, 0]


DECIMALS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False, width=32).map(repr),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers(-(10**20), 10**20).map(str),
    st.builds("{}.{}e{}".format, st.integers(-999, 999), st.integers(0, 10**12), st.integers(-30, 30)),
    # Just beside what two neighbouring float32 have in the middle, where one wrong bit of a float64 would show.
    st.builds(
        lambda base, off: f"{float(base) / 2 + float(np.nextafter(np.float32(base), np.float32(np.inf))) / 2 + off:.17g}",
        st.floats(1, 1e6, width=32),
        st.floats(-1e-9, 1e-9),
    ),
)


@settings(max_examples=500)
@given(DECIMALS)
@example("16777217")
@example("0.1")
@example("-0.0")
@example("1e-45")
def test_a_number_read_is_the_nearest_float32(text: str) -> None:
    read, _, values = scan(message(f"[{text},1,1,1]"))
    with np.errstate(over="ignore"):
        exact = np.float32(float(msgspec.json.decode(text)))
    if read:
        assert values[0].tobytes() == exact.tobytes()
    else:
        digits = text.lower().split("e")[0].lstrip("-0.").replace(".", "")
        near_a_tie = abs((int(np.float64(float(text)).view(np.int64)) & 0x1FFFFFFF) - 0x10000000) <= 8
        assert len(digits) > 15 or "e" in text or near_a_tie or not np.isfinite(exact)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.floats(-9, 9) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*METRICS, "x"]), inner, max_size=4),
    max_leaves=6,
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "entity": st.sampled_from(["a", "b", ""]) | JSON,
        "timestamp": st.integers(0, 10**17) | JSON,
        "values": st.dictionaries(st.sampled_from([*METRICS, "x"]), st.none() | st.floats(-1e6, 1e6)) | JSON,
        "labels": st.dictionaries(st.text(max_size=3), st.text(max_size=3)) | JSON,
        "more": JSON,
    },
)


@settings(max_examples=500)
@given(FIELDS, st.booleans())
def test_what_is_read_agrees_with_a_general_reader(fields: dict[str, Any], spaced: bool) -> None:
    text = json.dumps(fields, ensure_ascii=False, indent=1 if spaced else None)
    read, timestamp, values = scan(text)
    if not read:
        return
    assert fields.get("entity", "a") == "a"
    assert type(fields["timestamp"]) is int
    assert timestamp == fields["timestamp"]
    told = fields["values"]
    wanted = [told.get(name) for name in METRICS] if isinstance(told, dict) else told
    expected = np.array([np.nan if value is None else value for value in wanted], np.float64).astype(np.float32)
    np.testing.assert_array_equal(values, expected)
    assert set(fields) <= {"entity", "timestamp", "values", "labels"}


@given(st.binary(max_size=60), st.integers(0, 60))
def test_no_bytes_make_it_read_beyond_its_message(noise: bytes, cut: int) -> None:
    good = message('{"cpu":1}').encode()
    spoiled = good[: min(cut, len(good))] + noise
    states, _, values, _, _ = SCANNER.scan([good, spoiled, good], [b"a", b"a", b"a"])
    assert states[0] == states[2] == READ
    assert values[0, 0] == values[2, 0] == 1.0
