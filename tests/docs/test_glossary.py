"""What the glossary names in the code exists there, and every term the project speaks of is in it."""

from __future__ import annotations

import importlib
import re
from functools import reduce
from pathlib import Path

import pytest

PAGE = (Path(__file__).resolve().parent.parent.parent / "docs" / "glossary.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(service\.[\w.]+(?::[\w.]+)?)`", PAGE)))
TERMS = """
surprise level claim rarity evidence episode budget bundle early calibration n_eff floor margin widened
attribution whitening departure overrides_by_decades window row stride coverage severity transition seq
pending group route receiver mute silence maintenance inhibition mark journal dead takeover fencing
"""


@pytest.mark.parametrize("name", NAMED)
def test_what_is_named_exists(name: str) -> None:
    module, _, attribute = name.partition(":")
    found = importlib.import_module(module)
    reduce(getattr, attribute.split(".") if attribute else [], found)  # raises where there is no such name


def test_many_terms_say_where_they_are_computed() -> None:
    assert len(NAMED) > 40


@pytest.mark.parametrize("term", TERMS.split())
def test_the_term_is_defined(term: str) -> None:
    defined = " ".join(re.findall(r"\*\*(.+?)\*\*", PAGE)).lower()
    assert term.lower() in defined
