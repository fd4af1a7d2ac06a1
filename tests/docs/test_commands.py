"""Commands and settings that the documents show exist: words, options and targets are looked up, nothing is run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from service.cli import app
from service.settings import Settings

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "docs" / "reference" / "detectors.md"]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def shown(page: Path, program: str) -> list[list[str]]:
    """The words after ``program`` of every command line in a block of shell code or between backquotes."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += [line for line in re.findall(r"`([^`\n]+)`", text) if line.startswith(f"{program} ")]
    found = []
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[:1] == [program]:
            found.append(words[1:])
    return found


def check(words: list[str]) -> None:
    """Raises ``AssertionError`` when there is no such command or one of its options is unknown."""
    command: Any = typer.main.get_command(app)
    rest = list(words)
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        assert rest[0] in command.commands, f"tidewatch has no command {' '.join(words)!r}"
        command = command.commands[rest.pop(0)]
    options = {name for one in command.params for name in (*one.opts, *one.secondary_opts)} | {"--help"}
    for word in rest:
        if word.startswith("-"):
            assert word.split("=")[0] in options, f"tidewatch {' '.join(words)}: there is no option {word}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist_with_their_options(page: Path) -> None:
    for words in shown(page, "tidewatch"):
        check(words)
    for words in shown(page, "make"):
        assert words[0] in TARGETS, words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_settings_are_valid(page: Path) -> None:
    for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        Settings.model_validate(yaml.safe_load(block))


def test_the_readme_shows_commands() -> None:
    assert len(shown(ROOT / "README.md", "tidewatch")) > 5
    assert len(shown(ROOT / "README.md", "make")) > 2


@pytest.mark.parametrize("wrong", ["fly", "run --faster", "alerts forget 3f9c1a"])
def test_a_command_that_is_not_there_is_found_out(wrong: str) -> None:
    with pytest.raises(AssertionError):
        check(wrong.split())
