"""A name from a producer stays text in the headers of an e-mail."""

from __future__ import annotations

import base64
from email import message_from_bytes, policy
from email.message import EmailMessage

import pytest

from service.alerts.receivers.email import _one_line

FORGED = "x\r\nBcc: evil@example.com\r\nContent-Type: text/html\r\n\r\n<b>forged</b>"


@pytest.mark.parametrize("prefix", ["", "=", "db ", "=?", "= ", "=\x00"])
@pytest.mark.parametrize("charset", ["utf-8", "UTF-8", "iso-8859-1"])
def test_an_encoded_word_in_a_name_becomes_no_header(prefix: str, charset: str) -> None:
    mail = EmailMessage()
    mail["Subject"] = _one_line(f"{prefix}=?{charset}?b?{base64.b64encode(FORGED.encode()).decode()}?= is unusual")
    mail.set_content("the body")
    read = message_from_bytes(mail.as_bytes(), policy=policy.default)
    assert read["Bcc"] is None
    assert read.get_content_type() == "text/plain"
    assert read.get_content().strip() == "the body"
    assert "forged" not in mail.as_string()
