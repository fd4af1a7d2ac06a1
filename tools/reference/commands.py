"""``docs/reference/cli.md``: every command and option of the command line, with its own help texts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, get_args

import typer

from service.cli import app
from tools.reference.markdown import code, head, prose, sentence, table, value

OPENING = """Every command with its arguments and options; `tidewatch COMMAND --help` prints the same.
The exit status is 0 on success, 1 when something outside failed (a server is down),
and 2 when the command line, the settings or a bundle must be changed."""


def page() -> str:
    """The whole page. Raises ``LookupError`` for an option without help."""
    root: Any = typer.main.get_command(app)
    lines = head("Commands", OPENING)
    for path, command in commands(root):
        usage = " ".join(["tidewatch", *path, *(_usage(one) for one in command.params if _is_argument(one)), "[OPTIONS]"])
        lines += [f"## {code('tidewatch ' + ' '.join(path))}", "", _plain(command.help), "", "```sh", usage, "```", ""]
        rows = [_row(path, one) for one in sorted(command.params, key=_is_argument, reverse=True)]
        lines += table(("argument or option", "value", "default", "meaning"), rows) if rows else []
        if command.epilog:
            lines += [_plain(command.epilog), ""]
    return "\n".join(lines)


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that does something, with its words."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def _plain(text: str | None) -> str:
    """Help text as Markdown: what the terminal prints in bold is code here."""
    return re.sub(r"\[/?(?:bold)?\]", "`", prose(text or ""))


def _is_argument(one: Any) -> bool:
    return bool(one.param_type_name == "argument")


def _usage(one: Any) -> str:
    name = str(one.name).upper() + ("..." if one.nargs == -1 else "")
    return name if one.required else f"[{name}]"


def _row(path: tuple[str, ...], one: Any) -> tuple[str, str, str, str]:
    if not one.help:
        raise LookupError(f"{one.name!r} of tidewatch {' '.join(path)} has no help text")
    name = _usage(one) if _is_argument(one) else ", ".join((*one.opts, *one.secondary_opts))
    env = f" Also `{one.envvar}`." if one.envvar else ""
    kind = _kind(one)
    default = "required" if one.required else "" if kind == "flag" else _default(one.default)
    return code(name), kind, default, sentence(one.help) + env


def _kind(one: Any) -> str:
    if getattr(one, "is_flag", False) or getattr(one, "is_bool_flag", False):
        return "flag"
    annotation = one.type_descriptor.annotation
    annotation = next(iter(get_args(annotation)), annotation)  # of a list: what its items are
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return ", ".join(code(str(each.value)) for each in annotation)
    words = {int: "integer", float: "number", str: "text", bool: "flag", Path: "path"}.get(annotation, str(annotation))
    bounds = [f"{sign} {bound:g}" for sign, bound in (("≥", one.min), ("≤", one.max)) if bound is not None]
    return " ".join([words, ", ".join(bounds)]).strip()


def _default(default: Any) -> str:
    return "" if default in (None, (), [], "") or callable(default) else code(value(default))
