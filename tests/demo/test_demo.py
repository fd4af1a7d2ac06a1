"""What the demo waits for is what the notifiers really say."""

from __future__ import annotations

import numpy as np
import pytest

from service.alerts.slack import payload
from service.alerts.wording import summary_title
from service.demo.lessons import moving
from service.demo.messages import is_over
from service.domain import Alert, Status
from tests.alerts.makers import alert

FIRING, RESOLVED = alert(), alert(status=Status.RESOLVED)


@pytest.mark.parametrize(
    ("told", "over"), [([FIRING], False), ([RESOLVED], True), ([FIRING, RESOLVED], False), ([RESOLVED, RESOLVED], True)]
)
def test_the_demo_knows_a_message_about_an_end(told: list[Alert], over: bool) -> None:
    assert is_over(payload(told)["text"]) is over
    assert is_over(summary_title(told)) is over


def test_a_metric_moves_in_the_stretches_in_which_its_observed_values_differ() -> None:
    values = np.zeros((8, 4), np.float32)
    values[::2, 0] = 1.0  # all the time
    values[5, 1] = 1.0  # in the second stretch
    values[:2, 2] = np.nan  # nothing there is no movement
    assert moving(values, 4).tolist() == [1.0, 0.5, 0.0, 0.0]
