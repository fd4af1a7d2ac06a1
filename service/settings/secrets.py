"""Secrets, given directly or in a file of their own."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from pydantic import SecretStr

from service.errors import ConfigError


def reveal(secret: SecretStr | None, file: Path | None) -> str | None:
    """The text of a secret given directly or through a file; ``None`` when neither is set.

    Raises ``ConfigError`` when the file cannot be read, and when there is no secret in it or in the setting: without one, what it
    protects would be open.
    """
    if secret is not None:
        if not secret.get_secret_value().strip():
            raise ConfigError("A secret in the settings is empty.", hint="Give it a value (is its variable set?), or remove it.")
        return secret.get_secret_value()
    if file is None:
        return None
    try:
        secret_text = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        why = f"The secret file {file} cannot be read: {error.strerror}."
        raise ConfigError(why, hint="Check its path and permissions.") from error
    except UnicodeDecodeError:
        raise ConfigError(f"The secret file {file} is not UTF-8 text.", hint="Write the secret into it as text.") from None
    if not secret_text:
        raise ConfigError(f"The secret file {file} is empty.", hint="Write the secret into it, or remove the setting.")
    return secret_text


def without_password(url: str) -> str:
    """An address as it may be told: user and password in it are left out."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
