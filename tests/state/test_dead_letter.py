"""Dead letters keep the record as it was; only what no broker would take is cut, and says so."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from service.domain import Record, Rejected
from service.state.dead_letter import NULL_VALUE, REASON, TRUNCATED, dead_letter, truncated

BYTES = st.none() | st.binary(max_size=50)
HEADERS = st.lists(st.tuples(st.text(max_size=5), BYTES), max_size=3)


@given(BYTES, BYTES, HEADERS, st.text(max_size=50))
def test_bytes_and_headers_are_kept_and_told_from_where(
    key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]], sentence: str
) -> None:
    record = Record("metrics", 3, 41, 7, key, value, tuple(headers))
    letter = dead_letter(Rejected(record, "not-json", sentence))
    null = key is None and value is None
    assert (letter.key, letter.value) == (key, b"" if null else value)
    assert letter.headers[: len(headers)] == tuple(headers)
    told = {name: (bytes_ or b"").decode() for name, bytes_ in letter.headers[len(headers) :]}
    assert told == {
        "__streams.errors.exception": "service.errors.InvalidMessage",
        "__streams.errors.message": sentence,
        "__streams.errors.topic": "metrics",
        "__streams.errors.partition": "3",
        "__streams.errors.offset": "41",
        REASON: "not-json",
        **({NULL_VALUE: "true"} if null else {}),
    }


def test_a_letter_that_is_too_large_keeps_its_beginning_and_its_reason() -> None:
    record = Record("metrics", 0, 1, 7, b"k" * 5000, bytes(range(256)) * 100, (("trace", b"x" * 9000),))
    letter = truncated(dead_letter(Rejected(record, "too-large", "Too large.")), 4000)
    assert record.value is not None
    assert letter.value == record.value[: len(letter.value or b"")]
    told = dict(letter.headers)
    assert told[TRUNCATED] == b"25600"
    assert told[REASON] == b"too-large"
    assert 3000 < len(letter.key or b"") + len(letter.value or b"") + sum(len(a) + len(b or b"") for a, b in letter.headers) < 4000
