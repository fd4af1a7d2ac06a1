"""Malformed and hostile records: examples from hypothesis, and seeded mutations of them.

A seed gives the same records only with the same code: hypothesis takes some constants from the loaded modules.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import hypothesis
from hypothesis import strategies as st

from service.domain import Record
from service.settings import StreamSettings

NOW = 1_763_769_600_000
STRANGE_NUMBERS = st.sampled_from(
    [0, -1, 10**400, 2**63, -(2**63), 1e308, 1e39, float("nan"), float("inf"), -0.0, NOW, 1e-320, True]
)
STRANGE_TEXT = st.sampled_from(
    ["", "\x00", "\ud800", "host-1", "bad-1", "../../etc/passwd", "{{ 7 * 7 }}", "<!channel>", "\u202e", "a" * 300]
)
HEADERS: list[tuple[tuple[str, bytes | None], ...]] = [
    (),
    (("h", None),),
    (("", b""), ("", None)),
    (("tidewatch.reason", b"none"), ("__streams.errors.topic", None)),
    (("__streams.errors.offset", b"x" * 5000),),
    (("\ufffd", b"\xff"),) * 50,
]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | STRANGE_NUMBERS | STRANGE_TEXT
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4), max_leaves=8
)
TIMES = st.integers(NOW - 10**6, NOW + 10**6) | st.sampled_from(
    ["2026-11-22T00:00:00Z", "0001-01-01T00:00:00+23:59", "now", NOW / 1000]
)
VALUES = st.dictionaries(st.sampled_from(["cpu", "mem", "io", "", "cpu\x00"]), st.floats(width=32) | SCALARS, max_size=5)
NEARLY = st.fixed_dictionaries(
    {},
    optional={
        "entity": st.sampled_from(["bad-1", "bad-2", "nobody"]) | ANYTHING,
        "timestamp": TIMES | ANYTHING,
        "values": VALUES | st.lists(SCALARS, min_size=2, max_size=4) | ANYTHING,
        "labels": st.dictionaries(st.text(max_size=8), st.text(max_size=8) | SCALARS, max_size=40) | ANYTHING,
        "extra": ANYTHING,
    },
)
TEXTS = (NEARLY | ANYTHING).map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"))
EXAMPLES = TEXTS | st.binary(max_size=200) | TEXTS.map(lambda text: text.decode("utf-8", "replace").encode("utf-16"))

PIECES = (
    b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"\xef\xbb\xbf", b'"', b"{", b"}", b"[" * 40, b"\\u0000", b"\\ud800", b"1e999", b"-",
    b"NaN", b'"entity":"bad-2",', b'"timestamp":1763769600000,', b'"values":{"cpu":1e39},', b"9" * 60, b"/*", b"\r\n", b",,",
)  # fmt: skip
# One invalid field in an otherwise good message, which random mutation rarely produces.
SPOILED: tuple[dict[str, Any], ...] = (
    {"labels": {f"label-{at}": "x" for at in range(40)}},
    {"labels": {"rack": "7" * 5000}},
    {"timestamp": NOW + 10**9},
    {"timestamp": NOW * 1000},
    {"values": {"cpu": 1e39}},
    {"values": {"unheard-of": 1.0}},
    {"entity": "nobody"},
    {"entity": ""},
)
KEYS = (None, b"", b"bad-1", b"bad-2", b"host-1", b"\xff", b"k" * 300, b"nobody", b"bad\x00")
RECORD_TIMES = (NOW, NOW, NOW, NOW + 3_600_000, 0, -1, 2**62, 2**63 - 1)


def examples(seed: int, count: int) -> list[bytes]:
    """``count`` values as hypothesis makes them."""
    made: list[bytes] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(EXAMPLES)
    def keep(value: bytes) -> None:
        made.append(value)

    keep()
    return made


def mutated(chance: random.Random, value: bytes) -> bytes:
    """The value with one to three things done to it."""
    for _ in range(chance.randint(1, 3)):
        at, until = sorted((chance.randint(0, len(value)), chance.randint(0, len(value))))
        done = chance.randrange(5)
        if done == 0:
            value = value[:at] + value[until:]
        elif done == 1:
            value = value[:at] + chance.choice(PIECES) + value[at:]
        elif done == 2:
            value = value[:until] + value[at:until] + value[until:]
        elif done == 3:
            value = value[:at]
        elif value:
            place = chance.randrange(len(value))
            value = value[:place] + bytes([chance.randrange(256)]) + value[place + 1 :]
    return value


def good(chance: random.Random) -> dict[str, Any]:
    """A valid message."""
    return {"entity": f"bad-{chance.randrange(50)}", "timestamp": NOW, "values": {"cpu": 0.5, "mem": 1.5, "io": 2.5}}


def crossed(chance: random.Random, one: dict[str, Any], other: dict[str, Any]) -> bytes:
    """A valid message with some fields of two hostile ones: mostly still JSON."""
    told = good(chance)
    for source in (one, other):
        for name in source:
            if chance.random() < 0.3:
                told[name] = source[name]
    return json.dumps(told, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _named(value: bytes | None) -> bytes | None:
    """The key that fits the message, if it names an entity."""
    entity = (_object(value or b"") or {}).get("entity")
    return entity.encode("utf-8", "surrogatepass") if isinstance(entity, str) else None


def _object(value: bytes) -> dict[str, Any] | None:
    try:
        told = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None


def hostile(seed: int, count: int, made: int, limits: StreamSettings) -> Iterator[Record]:
    """``count`` records on partition 0: ``made`` values from hypothesis as they are, then mutations of them; and a few that are
    nested too deeply or too large."""
    chance, odd = random.Random(seed), random.Random(seed + 1)
    base = examples(seed, min(made, count))
    objects = [told for value in base if (told := _object(value))]
    large = b'{"entity":"bad-1","x":"' + b"a" * limits.max_message_bytes + b'"}'
    deep: list[Any] = [b"[" * 100_000, b'{"values":' * 5000, b'{"labels":' + b"[" * 3000 + b"]" * 3000 + b"}"]
    for number in range(count):
        dice = chance.random()
        value: bytes | None
        if number < len(base):
            value = base[number]
        elif dice < 0.001:
            value = chance.choice([large, large, *deep])
        elif dice < 0.0025:
            value = None
        elif dice < 0.02:
            value = json.dumps(good(chance) | chance.choice(SPOILED)).encode()
        elif dice < 0.5:
            value = crossed(chance, chance.choice(objects), chance.choice(objects))
        else:
            value = mutated(chance, chance.choice(base))
        key = chance.choice(KEYS) if chance.random() < 0.5 else _named(value)
        yield Record("metrics", 0, number, chance.choice(RECORD_TIMES), key, value, odd.choice(HEADERS))
