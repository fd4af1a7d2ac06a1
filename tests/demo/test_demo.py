"""What the demo waits for is what the notifiers really say."""

from __future__ import annotations

import pytest

from service.alerts.slack import payload
from service.alerts.wording import summary_title
from service.demo.demo import is_over
from service.domain import Alert, Status
from tests.alerts.makers import alert

FIRING, RESOLVED = alert(), alert(status=Status.RESOLVED)


@pytest.mark.parametrize(
    ("told", "over"), [([FIRING], False), ([RESOLVED], True), ([FIRING, RESOLVED], False), ([RESOLVED, RESOLVED], True)]
)
def test_the_demo_knows_a_message_about_an_end(told: list[Alert], over: bool) -> None:
    assert is_over(payload(told)["text"]) is over
    assert is_over(summary_title(told)) is over
