"""A secret file that holds no secret is a wrong setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.errors import ConfigError
from service.settings import reveal


@pytest.mark.parametrize("content", [b"", b"\n", b" \t\r\n", b"\xff\xfe"])
def test_a_secret_file_without_a_secret_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(ConfigError):
        reveal(None, file)
