"""``docs/reference/detectors.md``: the detectors of ``service.app.DETECTORS``.

Options and defaults come from their constructors, the rest from their docstrings, whose paragraphs "Options: …" and "Example: …"
have a fixed form.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

from service.app import DETECTORS, component
from service.settings import Settings
from tools.reference.markdown import code, head, prose, table, value
from tools.reference.settings import EXAMPLE, meanings_of

OPENING = """The detectors that `training.detectors` can name. A detector scores windows; calibration decides what a score means.
Beside its own options each takes one of these two, which say how its score is combined with the others:

- `weight`: its weight in the combined score, 1 if it is not given. A number in place of options is the weight.
- `overrides_by_decades`: it has no weight, but overrides the combined score when its evidence is that many decades stronger.

The default is DEFAULTS.
An option whose default is *training* has the value of that key of `training` in the settings."""

COMMON = {"name": "its name in scores and alerts; by default the name in the settings"}


def page() -> str:
    """The whole page. Raises ``LookupError`` for an option without a meaning or a detector without an example."""
    defaults = "; ".join(f"`{name}: {_told(told)}`" for name, told in Settings().training.detectors.items())
    lines = head("Detectors", OPENING.replace("DEFAULTS", defaults))
    settings = meanings_of(EXAMPLE.read_text(encoding="utf-8"))
    for name in DETECTORS:
        made = component(DETECTORS, name, "detector")
        takes = getattr(made, "takes", ())
        options = dict(options_of(made))
        shared = {option: f"as `training.{option}`: {settings[f'training.{option}']}" for option in takes}
        meanings = COMMON | option_meanings(made, options) | shared
        rows = []
        for option, default in sorted(options.items(), key=lambda one: one[0] == "name"):
            if not meanings.get(option):
                raise LookupError(f"The docstring of the detector {name!r} does not say what its option {option!r} means.")
            rows.append((code(option), "*training*" if option in takes else code(value(default)), meanings[option]))
        lines += [f"## {code(name)}", "", *_about(made), *table(("option", "default", "meaning"), rows), *_example(name, made)]
    return "\n".join(lines)


def _told(told: Any) -> str:
    return str(told) if not isinstance(told, dict) else "{" + ", ".join(f"{key}: {one}" for key, one in told.items()) + "}"


def _about(made: type) -> list[str]:
    """What it is: its module's first sentence, and its docstring without the two paragraphs of fixed form."""
    module = inspect.getmodule(made)
    assert module is not None
    own = [one for one in _paragraphs(made) if not one.startswith(("Options:", "Example:"))]
    return [prose((module.__doc__ or "").split("\n\n")[0]), "", prose("\n\n".join(own)), "", f"In {code(module.__name__)}.", ""]


def _example(name: str, made: type) -> list[str]:
    found = [one.removeprefix("Example:").strip(" `") for one in _paragraphs(made) if one.startswith("Example:")]
    if not found:
        raise LookupError(f"The docstring of the detector {name!r} has no example.")
    return ["```yaml", found[0], "```", ""]


def _paragraphs(made: type) -> list[str]:
    return [" ".join(one.split()) for one in re.split(r"\n\s*\n", (vars(made).get("__doc__") or "").strip())]


def options_of(made: type) -> Iterator[tuple[str, Any]]:
    """Options and their defaults, also those that a constructor hands on to its parent (``**options``)."""
    seen: set[str] = set()
    for each in made.__mro__:
        if "__init__" not in vars(each) or each is object:
            continue
        parameters = inspect.signature(vars(each)["__init__"]).parameters.values()
        for one in parameters:
            if one.kind is inspect.Parameter.KEYWORD_ONLY and one.name not in seen:
                seen.add(one.name)
                yield one.name, one.default
        if not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters):
            return


def option_meanings(made: type, options: dict[str, Any]) -> dict[str, str]:
    """What the docstrings say of the options ("``name``: meaning; …"); a subclass wins over its parents."""
    found: dict[str, str] = {}
    for each in reversed(made.__mro__):
        said = " ".join(one.removeprefix("Options:") for one in _paragraphs(each) if one.startswith("Options:"))
        for part in re.split(r"; (?=``)|(?<=given here): (?=``)", said.strip().removesuffix(".")):
            item = re.match(r"``(\w+)``:? ?(.*)", part)
            if item and item.group(1) in options and item.group(2):
                found[item.group(1)] = item.group(2).split("; and those")[0].split(". From the")[0].replace("``", "`")
    return found
