"""What ``tidewatch alerts show`` says of an alert about which nothing was sent."""

from __future__ import annotations

from service.commands.alerts import why_nothing_was_sent


def test_it_is_said_why_no_message_was_sent() -> None:
    silenced = why_nothing_was_sent({"muted_by": "silenced by Ada (s1): disks"})
    assert silenced == "No message was sent: silenced by Ada (s1): disks."
    assert why_nothing_was_sent({"muted_by": None}) == "No message was sent: the alert never fired."
    assert why_nothing_was_sent({"muted_by": None, "fired_at": "2026"}).startswith("No message was sent yet")
