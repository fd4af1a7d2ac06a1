"""Jinja2 in a sandbox: templates see words already composed, and can call nothing."""

from __future__ import annotations

from functools import lru_cache

from jinja2 import PackageLoader, StrictUndefined, select_autoescape
from jinja2.sandbox import ImmutableSandboxedEnvironment


@lru_cache(maxsize=1)
def environment() -> ImmutableSandboxedEnvironment:
    """Templates of ``service/alerts/templates``; HTML is escaped, an undefined name is an error."""
    return ImmutableSandboxedEnvironment(
        loader=PackageLoader("service.alerts", "templates"),
        autoescape=select_autoescape(enabled_extensions=("html.j2",), default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def render(template: str, **values: object) -> str:
    """One template with these values."""
    return environment().get_template(template).render(**values)
