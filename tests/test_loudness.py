"""A score says where a surprise lies among an entity's levels: ordered, joined at them, never beyond one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain import Severity, SeverityBounds
from service.loudness import loudness, loudnesses

MARGINS = st.floats(0.2, 10.0)


@settings(deadline=None)  # the first call compiles the kernel
@given(
    surprises=st.lists(st.floats(0.0, 1e6), min_size=2, max_size=20),
    level=st.floats(0.1, 40.0),
    warning=MARGINS,
    critical=MARGINS,
)
def test_a_stronger_fault_is_never_quieter_and_severities_begin_at_their_levels(
    surprises: list[float], level: float, warning: float, critical: float
) -> None:
    ordered = np.sort(np.array(surprises))
    levels = (level, level + warning, level + warning + critical)
    scores = loudnesses(ordered, *(np.full(len(ordered), at) for at in levels))
    assert (np.diff(scores) >= 0).all()
    assert ((scores >= 0) & (scores <= 1)).all()
    for surprise, score in zip(ordered, scores, strict=True):
        reached = sum(bool(surprise > at + 1e-9) for at in levels[1:])
        if min(abs(surprise - at) for at in levels) > 1e-6:
            assert SeverityBounds().of(score).rank == reached


def test_its_pieces_meet() -> None:
    for at, expected in ((2.0, 0.5), (3.0, 0.7), (5.0, 0.9)):
        below, above = (loudness(at + step, 2.0, 3.0, 5.0) for step in (-1e-9, 1e-9))
        assert below == pytest.approx(expected) == pytest.approx(above)
    assert loudness(0.0, 2.0, 3.0, 5.0) == 0.0


@pytest.mark.parametrize(("surprise", "severity"), [(4.1, Severity.INFO), (4.3, Severity.WARNING), (5.5, Severity.CRITICAL)])
def test_an_alert_stored_before_severities_had_levels_goes_on_with_what_they_were(surprise: float, severity: Severity) -> None:
    assert SeverityBounds().of(loudness(surprise, 2.0, 0.0, 0.0)) is severity
