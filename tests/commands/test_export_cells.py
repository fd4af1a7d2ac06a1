"""Cells of the CSV export: text from outside is no formula."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.commands.alerts import in_a_cell


@pytest.mark.parametrize("text", ['=HYPERLINK("http://evil","x")', "+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_formula_is_shown_as_text(text: str) -> None:
    assert in_a_cell(text) == f"'{text}"


@given(st.text() | st.floats(allow_nan=False) | st.none())
def test_no_cell_begins_as_a_formula(value: object) -> None:
    cell = in_a_cell(value)
    assert not (isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r"))
    assert cell == value or cell == f"'{value}"
