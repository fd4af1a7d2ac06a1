"""``python -m tools.reference`` writes every page of ``docs/reference/``; ``--check`` only says which are out of date."""

from __future__ import annotations

import sys
from pathlib import Path

from tools.reference import PAGES

FOLDER = Path(__file__).resolve().parent.parent.parent / "docs" / "reference"


def main() -> int:
    """Write the pages. 1 when ``--check`` is given and a page is out of date."""
    stale = []
    for name, page in PAGES.items():
        path, text = FOLDER / name, page()
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if "--check" not in sys.argv:
                FOLDER.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
                print(f"wrote docs/reference/{name}")
    if stale and "--check" in sys.argv:
        print(f"out of date: {', '.join(stale)}; run `make reference`")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
