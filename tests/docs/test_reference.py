"""The pages of ``docs/reference/`` say what the code says; ``make reference`` writes them anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.reference import PAGES
from tools.reference.detectors import option_meanings, options_of
from tools.reference.settings import meanings_of

FOLDER = Path(__file__).resolve().parent.parent.parent / "docs" / "reference"


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_the_code_makes_of_it(name: str) -> None:
    written = (FOLDER / name).read_text(encoding="utf-8")
    assert written == PAGES[name](), f"docs/reference/{name} is out of date: run `make reference`"


def test_no_page_is_left_over() -> None:
    assert {path.name for path in FOLDER.glob("*.md")} == {*PAGES}


def test_a_comment_belongs_to_the_key_it_stands_above_or_behind() -> None:
    text = """
kafka:
  # Where the brokers are.
  bootstrap_servers: 127.0.0.1:9092        # host:port

  #username: tidewatch                     # for SASL
notifications:
  receivers: []
  #receivers:
  #  - name: chat                          # used in routes
  #    type: slack
  #    url: https://example.org/#/a        # a secret
"""
    assert meanings_of(text) == {
        "kafka.bootstrap_servers": "Where the brokers are. host:port",
        "kafka.username": "for SASL",
        "notifications.receivers.SlackReceiver.name": "used in routes",
        "notifications.receivers.SlackReceiver.url": "a secret",
    }


def test_an_option_takes_its_meaning_from_the_nearest_docstring() -> None:
    class Parent:
        """What it is.

        Options: ``size``: how large; ``seed`` of the draw; and those of nobody.
        """

        def __init__(self, *, size: int = 3, seed: int = 0) -> None: ...

    class Child(Parent):
        """Another.

        Options: ``depth``: how deep; ``seed``: of its own.
        """

        def __init__(self, *, depth: int = 1, **options: int) -> None: ...

    options = dict(options_of(Child))
    assert options == {"depth": 1, "size": 3, "seed": 0}
    assert option_meanings(Child, options) == {"depth": "how deep", "size": "how large", "seed": "of its own"}
