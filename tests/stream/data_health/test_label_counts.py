"""The counts of label values stay small whatever labels there are, and never say less of a label that they name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from service.stream.data_health.label_counts import MOST_BYTES, MOST_LABELS, MOST_VALUES, LabelCounts


def counted(*entities: Mapping[str, str]) -> LabelCounts:
    made = LabelCounts()
    for labels in entities:
        made.add(labels)
    return made


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.text(max_size=3), max_size=3)))
def test_every_value_is_counted(entities: list[dict[str, str]]) -> None:
    made = counted(*entities)
    assert made.entities == len(entities)
    everyone = Counter(item for labels in entities for item in labels.items())
    assert {(name, value): count for name, values in made.counts().items() for value, count in values.items()} == everyone


def test_a_label_that_names_single_entities_is_left_out() -> None:
    made = counted(*({"host": f"h{n}", "rack": f"r{n % 3}"} for n in range(3 * MOST_VALUES)))
    assert made.counts() == {"rack": dict.fromkeys(("r0", "r1", "r2"), MOST_VALUES)}


def test_the_report_stays_small() -> None:
    made = counted(*({f"label{at}": "ü" * 100 + str(n) for at in range(50)} for n in range(MOST_VALUES)))
    assert 0 < len(made.counts()) <= MOST_LABELS
    assert len(msgspec.json.encode(made.counts())) <= MOST_BYTES + 2
