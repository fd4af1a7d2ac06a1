"""What the native codec reads, what it refuses and with which reason; and that nothing makes it raise."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.domain import Record, Samples, Schema
from service.settings import StreamSettings
from service.sources.codecs.message import encode
from service.sources.codecs.native import NativeCodec

T0 = 1_763_769_600_000
SCHEMA = Schema(("cpu", "mem", "disk io/s"), 1000)
OTHER = Schema(("temperature",), 60_000)
LIMITS = StreamSettings(max_message_bytes=1000, max_labels=3)


def schemas(entity: str) -> Schema | None:
    """host-* has one model, probe-* another, everything else none."""
    return SCHEMA if entity.startswith("host-") else OTHER if entity.startswith("probe-") else None


def codec() -> NativeCodec:
    return NativeCodec(schemas, LIMITS)


def record(value: Any, key: str | bytes | None = "host-1", *, offset: int = 0, at: int = T0) -> Record:
    """A record whose value is JSON of ``value``, or the bytes themselves."""
    told = value if isinstance(value, bytes) or value is None else json.dumps(value).encode()
    return Record("metrics", 0, offset, at, key.encode() if isinstance(key, str) else key, told)


def good(**changed: Any) -> dict[str, Any]:
    """A message of host-1 with some fields changed; None takes the field away."""
    message = {"entity": "host-1", "timestamp": T0, "values": {"cpu": 0.5, "mem": 2, "disk io/s": -3e5}, **changed}
    return {name: value for name, value in message.items() if value is not None}


WARM = record(good())  # a key that was seen before takes the fast path


@pytest.fixture(params=["first", "again"])
def reader(request: pytest.FixtureRequest) -> NativeCodec:
    """A codec that sees the key for the first time, and one that knows it: both paths must agree."""
    made = codec()
    if request.param == "again":
        made.decode([WARM])
    return made


def test_a_message_becomes_a_sample(reader: NativeCodec) -> None:
    (sample,), rejected = reader.decode([record(good(labels={"rack": "7"}), offset=41)])
    assert not rejected
    assert (sample.entity, sample.timestamp, sample.row) == ("host-1", T0, T0 // 1000)
    assert sample.values.dtype == np.float32
    assert sample.values.tolist() == [0.5, 2.0, -300000.0]
    assert sample.mask.tolist() == [True, True, True]
    assert sample.labels == {"rack": "7"}
    assert sample.record.offset == 41


@pytest.mark.parametrize(
    ("value", "values"),
    [
        ({"cpu": 1, "mem": None}, [1, None, None]),
        ({"mem": 1.5, "unknown": 3, "disk io/s": 0}, [None, 1.5, 0]),
        ([1, 2, 3], [1, 2, 3]),
        ([None, 2, None], [None, 2, None]),
    ],
)
def test_missing_metrics_are_masked_and_unknown_ones_ignored(reader: NativeCodec, value: Any, values: list[float | None]) -> None:
    (sample,), rejected = reader.decode([record(good(values=value))])
    assert not rejected
    assert [None if math.isnan(number) else number for number in sample.values.tolist()] == values
    assert sample.mask.tolist() == [number is not None for number in values]


@pytest.mark.parametrize(
    ("timestamp", "expected"),
    [
        (T0 + 7, T0 + 7),
        (float(T0), T0),
        (T0 + 0.9, T0),
        ("2025-11-22T00:00:00Z", T0),
        ("2025-11-22T00:00:00.250Z", T0 + 250),
        ("2025-11-22T01:00:00+01:00", T0),
        ("2025-11-21T19:00:00-05:00", T0),
    ],
)
def test_times_are_milliseconds_or_iso_with_a_zone(reader: NativeCodec, timestamp: Any, expected: int) -> None:
    (sample,), rejected = reader.decode([record(good(timestamp=timestamp))])
    assert not rejected
    assert sample.timestamp == expected
    assert sample.row == expected // 1000


@pytest.mark.parametrize(("key", "entity"), [("host-1", None), (None, "host-1"), ("host-1", ""), ("host-1", "host-1")])
def test_the_entity_comes_from_the_message_or_the_key(reader: NativeCodec, key: str | None, entity: str | None) -> None:
    (sample,), rejected = reader.decode([record(good(entity=entity), key)])
    assert not rejected
    assert sample.entity == "host-1"


DEEP = b'{"values":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
BAD: list[tuple[str, Record, str]] = [
    ("not-json", record(None), "no value"),
    ("not-json", record(b""), "not JSON"),
    ("not-json", record(b"cpu=1"), "not JSON"),
    ("not-json", record(b'{"entity": "host-1"'), "not JSON"),
    ("not-json", record(b'"\xff\xfe"'), "not JSON"),
    ("wrong-type", record([1, 2]), "an array"),
    ("wrong-type", record(7), "a number"),
    ("wrong-type", record(good(values="many")), "values is a string"),
    ("wrong-type", record(good(values={"cpu": "0.4"})), "cpu is a string"),
    ("wrong-type", record(good(values={"cpu": True})), "cpu is a boolean"),
    ("wrong-type", record(good(values={"cpu": [1]})), "cpu is an array"),
    ("wrong-type", record(good(entity=5), None), "entity is a number"),
    ("wrong-type", record(good(labels={"rack": 7})), "labels"),
    ("wrong-type", record(good(labels=["a"])), "labels"),
    ("wrong-type", record({"entity": "host-1", "timestamp": T0}), "values is missing"),
    ("bad-labels", record(good(labels={str(at): "" for at in range(4)})), "4 labels"),
    ("bad-labels", record(good(labels={"rack": "x" * 300})), "longer than"),
    ("too-large", record(b"x" * 1001), "1,001 bytes"),
    ("too-large", record(DEEP), "bytes"),
    ("unknown-entity", record(good(entity="db-1"), "db-1"), "No model matches the entity 'db-1'"),
    ("unknown-shape", record(good(values=[1, 2])), "2 numbers; the model reads 3"),
    ("unknown-shape", record(good(values=[])), "0 numbers"),
    ("unknown-shape", record(good(values={})), "none of the metrics"),
    ("unknown-shape", record(good(values={"swap": 1})), "none of the metrics"),
    ("unknown-shape", record(good(values=[None, None, None])), "none of the metrics"),
    ("not-finite", record(b'{"entity":"host-1","timestamp":%d,"values":{"cpu":NaN}}' % T0), "send null"),
    ("not-finite", record(b'{"entity":"host-1","timestamp":%d,"values":{"cpu":-Infinity}}' % T0), "send null"),
    ("not-finite", record(b'{"entity":"host-1","timestamp":%d,"values":{"cpu":1e400}}' % T0), "too large"),
    ("not-finite", record(good(values={"cpu": 1e39})), "cpu is too large"),
    ("not-finite", record(good(values={"cpu": 10**400})), "too large"),
    ("bad-timestamp", record(good(timestamp=-5)), "negative"),
    ("bad-timestamp", record(good(timestamp=-(10**30))), "negative"),
    ("bad-timestamp", record(good(timestamp=0)), "seconds"),
    ("bad-timestamp", record(good(timestamp=T0 // 1000)), "looks like seconds"),
    ("bad-timestamp", record(good(timestamp=T0 * 1000)), "must be milliseconds"),
    ("bad-timestamp", record(good(timestamp=10**30)), "must be milliseconds"),
    ("bad-timestamp", record(good(timestamp="soon")), "'soon'"),
    ("bad-timestamp", record(good(timestamp="2025-11-22T00:00:00")), "no time zone"),
    ("bad-timestamp", record(good(timestamp="0001-01-01T00:00:00+23:00")), "negative"),
    ("bad-timestamp", record(good(timestamp=True)), "a boolean"),
    ("bad-timestamp", record(good(timestamp={"s": 1})), "an object"),
    ("bad-timestamp", record({"entity": "host-1", "values": {"cpu": 1}}), "missing"),
    ("too-far-ahead", record(good(timestamp=T0 + 300_001)), "300 s ahead"),
    ("key-mismatch", record(good(), "host-2"), "key is 'host-2' but its entity is 'host-1'"),
    ("key-mismatch", record(good(), b"\xff"), "not UTF-8"),
    ("bad-entity", record(good(entity=None), None), "names no entity"),
    ("bad-entity", record(good(entity=""), ""), "names no entity"),
    ("bad-entity", record(good(entity="host-" + "x" * 300), None), "256"),
    ("bad-entity", record(good(entity="host-1\n"), None), "printable"),
]


@pytest.mark.parametrize(("reason", "bad", "told"), BAD, ids=[f"{reason}-{at}" for at, (reason, _, _) in enumerate(BAD)])
def test_bad_messages_are_refused_with_their_reason(reader: NativeCodec, reason: str, bad: Record, told: str) -> None:
    samples, rejected = reader.decode([WARM, bad, WARM])
    assert [sample.record for sample in samples] == [WARM, WARM]
    (refused,) = rejected
    assert refused.record is bad
    assert refused.reason == reason
    assert told in refused.message
    assert len(refused.message) < 400


def test_deep_nesting_is_refused_also_where_it_fits_the_size() -> None:
    wide = NativeCodec(schemas, LIMITS.model_copy(update={"max_message_bytes": 1_000_000}))
    wide.decode([WARM])
    for value in (DEEP, b"[" * 200_000):
        _, (refused,) = wide.decode([record(value)])
        assert refused.reason == "not-json"


def test_the_allowance_ahead_is_measured_from_the_records_own_time(reader: NativeCodec) -> None:
    samples, rejected = reader.decode([record(good(timestamp=T0 + 300_000)), record(good(timestamp=T0 + 900_000), at=T0 + 600_000)])
    assert len(samples) == 2
    assert not rejected


def test_one_schema_comes_as_columns_and_two_in_the_records_order() -> None:
    hosts = [record(good(entity=f"host-{at}"), f"host-{at}") for at in range(3)]
    probe = record({"timestamp": T0, "values": {"temperature": 20}}, "probe-1")
    reader = codec()
    for _ in range(2):
        samples, _ = reader.decode(hosts)
        assert isinstance(samples, Samples)
        assert samples.values.shape == (3, 3)
        samples, rejected = reader.decode([hosts[0], probe, hosts[1], record(b"?"), hosts[2]])
        assert [sample.entity for sample in samples] == ["host-0", "probe-1", "host-1", "host-2"]
        assert samples[1].row == T0 // 60_000
        assert len(rejected) == 1
    assert reader.decode([]) == ([], [])


def test_what_is_encoded_is_read_back() -> None:
    told = {"cpu": 0.25, "mem": math.nan, "disk io/s": -7.5}
    value = encode("host-1", T0, told, {"rack": "7"})
    (sample,), _ = codec().decode([record(value)])
    assert sample.values.tolist()[0::2] == [0.25, -7.5]
    assert sample.mask.tolist() == [True, False, True]
    assert sample.labels == {"rack": "7"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "entity": JSON | st.just("host-1"),
        "timestamp": JSON | st.just(T0) | st.datetimes().map(str),
        "values": JSON
        | st.dictionaries(st.sampled_from([*SCHEMA.metrics, "x"]), JSON | st.floats())
        | st.lists(st.floats(), max_size=4),
        "labels": JSON,
    },
)
VALUES = st.none() | st.binary(max_size=200) | (JSON | FIELDS).map(lambda told: json.dumps(told).encode())
KEYS = st.none() | st.binary(max_size=20) | st.sampled_from([b"host-1", b"host-2", b"probe-1", b"db-1"])


@given(st.lists(st.tuples(KEYS, VALUES, st.integers(-1, 2 * T0)), max_size=8))
@example([(b"host-1", b'{"timestamp": 1763769600000, "values": {"cpu": 3.5e38}}', T0)])
@settings(max_examples=400, deadline=None)
def test_nothing_makes_it_raise_and_every_record_is_accounted_for(told: list[tuple[bytes | None, bytes | None, int]]) -> None:
    records = [Record("metrics", 0, at, stamp, key, value) for at, (key, value, stamp) in enumerate(told)]
    reader = codec()
    reader.decode([WARM])
    samples, rejected = reader.decode(records)
    assert sorted([sample.record.offset for sample in samples] + [item.record.offset for item in rejected]) == list(
        range(len(records))
    )
    for sample in samples:
        assert np.isfinite(sample.values[sample.mask]).all()
        assert sample.mask.any()
        assert 0 < sample.timestamp <= sample.record.timestamp + 300_000


@given(st.binary(max_size=300) | FIELDS.map(lambda told: json.dumps(told).encode()), KEYS)
@settings(max_examples=400, deadline=None)
def test_the_fast_path_and_the_plain_one_agree(value: bytes, key: bytes | None) -> None:
    one = Record("metrics", 0, 0, T0, key, value)
    cold, warm = codec(), codec()
    warm.decode([WARM, record(good(entity="host-2"), "host-2")])
    results = []
    for reader in (cold, warm):
        samples, rejected = reader.decode([one])
        results.append(
            [(s.entity, s.timestamp, s.row, s.values.tobytes(), dict(s.labels)) for s in samples]
            + [(item.reason, item.message) for item in rejected]
        )
    assert results[0] == results[1]


NUMBERS = st.sampled_from(
    [b"1", b"-0.5e2", b"1e400", b"-1e999", b"null", b"1e39", b"01", b"NaN", b"true", b'"x"', b"[]", b"1" * 30]
)
NAMES = st.sampled_from(
    [b"cpu", b"mem", b"disk io/s", b"other", b"\xff", b"\xc3\xa9", b"\xed\xa0\x80", b"a\\u0062", b"\\ud800", b""]
)
STRINGS = st.sampled_from([b'"host-1"', b'"\xff"', b'"\\ud800"', b'"7"', b'""', b'"\x01"', b'"\xc3\xa9"'])
OBJECTS = st.lists(st.tuples(NAMES, NUMBERS), max_size=4).map(lambda all_: b"{%s}" % b",".join(b'"%s":%s' % one for one in all_))
LABELS = st.lists(st.tuples(NAMES, STRINGS), max_size=3).map(lambda all_: b"{%s}" % b",".join(b'"%s":%s' % one for one in all_))
PARTS = st.one_of(
    st.tuples(st.just(b"entity"), STRINGS),
    st.tuples(st.just(b"timestamp"), st.sampled_from([b"%d" % T0, b"%d" % (T0 + 1), b"1e400", b"-1", b"0", b"null"])),
    st.tuples(st.just(b"values"), OBJECTS | st.lists(NUMBERS, min_size=3, max_size=3).map(lambda all_: b"[%s]" % b",".join(all_))),
    st.tuples(st.just(b"labels"), LABELS | st.just(b"null")),
    st.tuples(NAMES, NUMBERS | STRINGS | OBJECTS),
)


@given(st.lists(PARTS, max_size=4), st.booleans(), st.binary(max_size=2))
@example([(b"values", b'{"cpu":1,"\xff":1}')], True, b"")
@example([(b"values", b'{"cpu":1,"other":1e400}')], True, b"")
@example([(b"note", b'"\xff"')], True, b"")
@example([(b"note", b"1e400")], True, b"")
@example([(b"labels", b'{"a":"\xff"}'), (b"labels", b'{"a":"7"}')], True, b"")
def test_every_reader_takes_and_refuses_what_the_plain_one_does(parts: list[tuple[bytes, bytes]], whole: bool, tail: bytes) -> None:
    common = [(b"entity", b'"host-1"'), (b"timestamp", b"%d" % T0), (b"values", b'{"cpu":1,"mem":2}')] if whole else []
    sent = record(b"{%s}%s" % (b",".join(b'"%s":%s' % one for one in common + parts), tail))
    samples, refused = codec().decode([sent])
    warm = codec()
    warm.decode([WARM])
    again, also = warm.decode([sent])
    assert [(item.reason, item.message) for item in also] == [(item.reason, item.message) for item in refused]
    assert [(one.entity, one.timestamp, one.labels, one.values.tobytes()) for one in again] == [
        (one.entity, one.timestamp, one.labels, one.values.tobytes()) for one in samples
    ]
