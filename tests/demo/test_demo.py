"""The demo recognises the messages that the receivers really get."""

from __future__ import annotations

import numpy as np
import pytest

from service.alerts.messages.groups import summary_title
from service.alerts.receivers.slack import payload
from service.demo.lessons import moving
from service.demo.messages import is_over
from service.domain import Alert, Series, Status
from tests.alerts.makers import alert

FIRING, RESOLVED = alert(), alert(status=Status.RESOLVED)


@pytest.mark.parametrize(
    ("alerts", "over"), [([FIRING], False), ([RESOLVED], True), ([FIRING, RESOLVED], False), ([RESOLVED, RESOLVED], True)]
)
def test_a_message_about_resolved_alerts_is_recognised(alerts: list[Alert], over: bool) -> None:
    assert is_over(payload(alerts)["text"]) is over
    assert is_over(summary_title(alerts)) is over


def test_a_metric_is_learned_that_moves_in_a_tenth_of_the_windows() -> None:
    values = np.zeros((100, 5), np.float32)
    values[::2, 0] = 1.0  # all the time
    values[:50:2, 1] = 1.0  # half of the time
    values[50, 2] = 1.0  # a tick, in 4 of 97 windows
    values[[25, 50, 75], 3] = 1.0  # three, in 12 of them
    values[:, 4] = np.nan  # nothing there is no movement
    assert moving([Series("host", 0, values)], 4).tolist() == [True, True, False, True, False]
