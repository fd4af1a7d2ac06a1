"""Matchers: globs over what an alert is about. Routes, silences, inhibition and maintenance windows all use them."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from service.domain import Alert


def attribute(alert: Alert, name: str) -> str:
    """What matchers and ``group_by`` use: ``entity``, ``severity``, ``model``, ``kind``, ``alert`` (its id), or a label ("" if
    absent)."""
    known = {
        "kind": alert.kind,
        "entity": alert.entity,
        "severity": str(alert.peak_severity),
        "model": alert.bundle,
        "alert": alert.alert_id,
    }
    return known[name] if name in known else alert.labels.get(name, "")


def matches(alert: Alert, match: Mapping[str, str]) -> bool:
    """True when every glob holds; ``!glob`` holds when the glob does not."""
    return all(holds(attribute(alert, name), pattern) for name, pattern in match.items())


def holds(value: str, pattern: str) -> bool:
    """True when ``value`` matches the glob, or does not match the glob after a ``!``."""
    if pattern.startswith("!"):
        return not fnmatchcase(value, pattern[1:])
    return fnmatchcase(value, pattern)
