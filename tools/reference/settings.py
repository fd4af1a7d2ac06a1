"""``docs/reference/settings.md``: keys, types and defaults from ``service.settings``, meanings from ``config.example.yaml``."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from service.settings import Settings
from tools.reference.markdown import code, head, prose, table, value

EXAMPLE = Path(__file__).resolve().parent.parent.parent / "config.example.yaml"
# A comment that is a setting: "#key: …", "#  - key: …" or a further key of such an item. Prose has a space after the "#".
COMMENTED = re.compile(r"^(\s*)#((?:\s\s+(?:- )?)?[a-z_]+:(?:\s.*)?)$")
PROSE = re.compile(r"^\s*# (.*)$")
TRAILING = re.compile(r"^.*?\s#\s+(.*)$")

OPENING = """Every key of the settings file: type, default and meaning. `config.example.yaml` shows the same keys as a file.
Each key can also be an environment variable, which wins over the file: `TIDEWATCH_KAFKA__BOOTSTRAP_SERVERS` is
`kafka.bootstrap_servers`."""


def page() -> str:
    """The whole page. Raises ``LookupError`` for a key without a meaning."""
    meanings = meanings_of(EXAMPLE.read_text(encoding="utf-8"))
    lines = head("Settings", OPENING)
    for name, field in Settings.model_fields.items():
        lines += _section(name, field, meanings, level=2)
    return "\n".join(lines)


def _section(path: str, field: FieldInfo, meanings: dict[str, str], level: int) -> list[str]:
    """A heading, what the section is for, its keys as a table, and the sections within it."""
    lines: list[str] = []
    sections = sections_of(field.annotation)
    for section in sections:
        inner_path = path + (f".{section.__name__}" if sections[1:] else "")
        kind = section.model_fields["type"].default if sections[1:] else None
        shown = shown_path(path, field) + (f" (type: {kind})" if kind else "")
        lines += [f"{'#' * level} {code(shown)}", "", prose(section.__doc__ or ""), ""]
        rows, inner = [], []
        for name, one in section.model_fields.items():
            key = f"{inner_path}.{name}"
            if sections_of(one.annotation):
                inner += _section(key, one, meanings, level + 1)
                continue
            if key not in meanings:
                raise LookupError(f"config.example.yaml has no comment on {key}")
            rows.append((code(name), type_words(one), _default(one), meanings[key]))
        lines += table(("key", "type", "default", "meaning"), rows) if rows else []
        lines += _old_names(section)
        lines += inner
    return lines


def _old_names(section: type[BaseModel]) -> list[str]:
    renamed = getattr(section, "renamed", {})
    said = ", ".join(f"{code(old)} for {code(new)}" for old, new in renamed.items())
    return [f"Old names, accepted in this release with a warning: {said}.", ""] if said else []


def _default(field: FieldInfo) -> str:
    return "required" if field.is_required() else code(value(field.get_default(call_default_factory=True)))


def sections_of(annotation: Any) -> list[type[BaseModel]]:
    """The sections an annotation holds, however deep in lists, unions and ``Annotated``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for each in get_args(annotation) for section in sections_of(each)]


def shown_path(path: str, field: FieldInfo) -> str:
    """``notifications.routes[]`` for a list of sections; class names within the path are left out."""
    plain = ".".join(part for part in path.split(".") if part.islower())
    return plain + ("[]" if get_origin(field.annotation) is list else "")


def type_words(field: FieldInfo) -> str:
    """``number > 0``, ``one of a, b``, ``list of text``."""
    words = _words(field.annotation)
    bounds = _bounds(field.metadata)
    return f"{words} {bounds}".strip()


def _words(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return f"{_words(inner[0])} {_bounds(inner[1:])}".strip()
    if origin is Literal:
        return f"one of {', '.join(code(str(each)) for each in inner)}"
    if origin in (Union, types.UnionType):
        return " or ".join(_words(each) for each in inner if each is not type(None))
    if origin is list:
        return f"list of {_words(inner[0])}"
    if origin is dict:
        return f"map from {_words(inner[0])} to {_words(inner[1])}"
    names = {int: "integer", float: "number", str: "text", bool: "true or false", Path: "path", SecretStr: "secret", Any: "any"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _bounds(metadata: Any) -> str:
    parts = []
    for one in metadata:
        one = getattr(one, "metadata", [one])  # a FieldInfo within Annotated holds a list of its own
        for each in one:
            for name, sign in (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤")):
                if hasattr(each, name):
                    parts.append(f"{sign} {getattr(each, name):g}")
            if hasattr(each, "min_length"):
                parts.append("not empty")
    return ", ".join(parts)


@dataclass(frozen=True)
class _Key:
    path: str
    line: int


def meanings_of(text: str) -> dict[str, str]:
    """What the example says of each key: the comment lines directly above it, and the comment behind it.

    Keys are dotted; where a list holds several types of section (receivers), the class name stands behind the list's key.
    """
    raw = text.splitlines()
    in_force = "\n".join(COMMENTED.sub(r"\1\2", line) for line in raw)
    found: dict[str, str] = {}
    for key in _keys(yaml.compose(in_force), Settings, ""):
        said = " ".join(part for part in (_above(raw, key.line), _behind(raw[key.line])) if part)
        if said:
            found.setdefault(key.path, said)
    return found


def _keys(node: Any, section: type[BaseModel], prefix: str) -> Iterator[_Key]:
    for key, inner in node.value:
        path = prefix + key.value
        yield _Key(path, key.start_mark.line)
        field = section.model_fields.get(key.value)
        sections = sections_of(field.annotation) if field is not None else []
        for item in inner.value if isinstance(inner, yaml.SequenceNode) else [inner]:
            if sections and isinstance(item, yaml.MappingNode):
                chosen = _chosen(item, sections)
                yield from _keys(item, chosen, f"{path}.{chosen.__name__}." if sections[1:] else f"{path}.")


def _chosen(item: Any, sections: list[type[BaseModel]]) -> type[BaseModel]:
    kind = next((inner.value for key, inner in item.value if key.value == "type"), None)
    return next((each for each in sections if sections[1:] and each.model_fields["type"].default == kind), sections[0])


def _above(raw: list[str], line: int) -> str:
    said: list[str] = []
    while line > 0 and not COMMENTED.match(raw[line - 1]) and (found := PROSE.match(raw[line - 1])):
        said.insert(0, found.group(1).strip())
        line -= 1
    return " ".join(said)


def _behind(line: str) -> str:
    found = TRAILING.match(line.lstrip().removeprefix("#"))
    return found.group(1).strip() if found else ""
