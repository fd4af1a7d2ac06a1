"""A secret file that holds no secret is a wrong setting."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from service.errors import ConfigError
from service.settings import reveal, without_password


@pytest.mark.parametrize("content", [b"", b"\n", b" \t\r\n", b"\xff\xfe"])
def test_a_secret_file_without_a_secret_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(ConfigError):
        reveal(None, file)


@pytest.mark.parametrize("secret", ["", " ", "\n"])
def test_an_empty_secret_is_refused(secret: str) -> None:
    with pytest.raises(ConfigError, match="A secret in the settings is empty"):
        reveal(SecretStr(secret), None)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://elastic:s3cret@es.example.com:9200/path", "http://es.example.com:9200/path"),
        ("https://es.example.com", "https://es.example.com"),
        ("https://a@b:c@[::1]:9200", "https://[::1]:9200"),
    ],
)
def test_an_address_is_told_without_its_password(url: str, told: str) -> None:
    assert without_password(url) == told
