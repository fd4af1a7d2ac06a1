"""config.example.yaml documents every key: none missing, none too many, every default the real one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from service.settings import Settings, load_settings

EXAMPLE = Path(__file__).resolve().parent.parent / "config.example.yaml"
# A comment that is a setting: "#key: …", "#  - key: …" or a further key of such an item. Prose has a space and a capital.
COMMENTED = re.compile(r"^(\s*)#((?:\s\s+(?:- )?)?[a-z_]+:(?:\s.*)?)$")


def everything() -> Mapping[str, Any]:
    """The example with every commented setting in force; where a key stands twice, the later (commented) one."""
    lines = [COMMENTED.sub(r"\1\2", line) for line in EXAMPLE.read_text(encoding="utf-8").splitlines()]
    loaded: Mapping[str, Any] = yaml.safe_load("\n".join(lines))
    return loaded


def models(annotation: Any) -> list[type[BaseModel]]:
    """The sections an annotation holds, however deep in lists, unions and ``Annotated``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for each in get_args(annotation) for model in models(each)]


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        inner = models(field.annotation)
        for each in inner:
            yield from keys(each, f"{prefix}{name}.{each.__name__}." if len(inner) > 1 else f"{prefix}{name}.")


def written(node: Mapping[str, Any], model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, value in node.items():
        yield prefix + name
        field = model.model_fields.get(name)
        inner = models(field.annotation) if field is not None else []
        for item in value if isinstance(value, list) else [value]:
            if not inner or not isinstance(item, dict):
                continue
            one = (
                next((each for each in inner if each.model_fields["type"].default == item["type"]), None) if inner[1:] else inner[0]
            )
            assert one is not None, f"{prefix}{name}: no such type {item.get('type')!r}"
            yield from written(item, one, f"{prefix}{name}.{one.__name__}." if len(inner) > 1 else f"{prefix}{name}.")


def test_every_key_is_documented_and_no_other() -> None:
    assert sorted(set(written(everything(), Settings))) == sorted(set(keys(Settings)))


def test_what_stands_there_uncommented_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIDEWATCH_CONFIG", raising=False)
    defaults = Settings()
    monkeypatch.setenv("TIDEWATCH_CONFIG", str(EXAMPLE))
    assert load_settings() == defaults


def test_the_commented_examples_are_valid(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "tidewatch.yaml"
    file.write_text(yaml.safe_dump(everything(), allow_unicode=True))
    monkeypatch.setenv("TIDEWATCH_CONFIG", str(file))
    settings = load_settings()
    assert {receiver.type for receiver in settings.notifications.receivers} == {"slack", "email", "webhook"}
    assert settings.models
