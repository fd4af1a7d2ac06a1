"""The drawing and the layers of docs/architecture.md, held against the code and against import-linter's contracts."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def drawn() -> Iterator[Path]:
    """Every folder and file of the drawing under "Rooms", relative to the repository."""
    drawing = PAGE.split("## Rooms", 1)[1].split("```")[1]
    folders: list[str] = []
    for line in drawing.strip().splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        names = re.match(r"(?:(?:\w+/|\w+\.py)\s)*(?:\w+/|\w+\.py)(?=\s|$)", line.strip())
        assert names, line
        for name in names.group().split():
            yield Path(*folders[:depth], name)
            if name.endswith("/"):
                folders[depth:] = [name]


def test_everything_drawn_exists() -> None:
    paths = list(drawn())
    assert len(paths) > 40
    assert [str(path) for path in paths if not (ROOT / path).exists()] == []


def test_every_room_and_every_file_outside_a_room_is_drawn() -> None:
    rooms = {path.parent for path in (ROOT / "service").rglob("__init__.py")}
    loose = {path for path in (ROOT / "service").glob("*.py") if path.name != "__init__.py"}
    assert sorted(str(path.relative_to(ROOT)) for path in (rooms | loose) - {ROOT / path for path in drawn()}) == []


@pytest.mark.parametrize("container", ["service", "service.alerts", "service.detectors"])
def test_the_layers_are_those_that_are_checked(container: str) -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    (layers,) = [one["layers"] for one in contracts if one.get("containers") == [container]]
    said = " > ".join(f"({layer})" if "|" in layer else layer for layer in layers)
    assert f" {said} " in f" {' '.join(PAGE.split())} "
