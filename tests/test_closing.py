"""A part closes everything it holds, whichever of it raises, and reports the first failure."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from service.api.part import ApiPart
from service.app import build_notify, build_store
from service.clock import SystemClock
from service.observability.health import Health
from service.observability.metrics import Metrics
from service.settings import Settings
from tests.stream.small import small_bundle
from tests.stream.test_scoring import Feed, Outbox, scoring_part

SETTINGS = Settings(notifications={"receivers": []}, api={"port": 0})


def _break(part: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[set[str], list[str]]:
    """Make every ``close`` of what ``part`` holds raise; the names, and the list that the calls are written to."""
    held, closed = {name: value for name, value in vars(part).items() if callable(getattr(value, "close", None))}, []

    def broken(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def note() -> None:
            closed.append(name)
            raise OSError(f"{name} cannot be closed")

        async def note_soon(*_: object, **__: object) -> None:
            note()

        return note_soon if inspect.iscoroutinefunction(original) else note

    for name, value in held.items():
        monkeypatch.setattr(value, "close", broken(name, value.close))
    return set(held), closed


async def _check(part: Any, monkeypatch: pytest.MonkeyPatch, at_least: int) -> None:
    with monkeypatch.context() as patched:
        held, closed = _break(part, patched)
        with pytest.raises(OSError, match=r"^_\w+ cannot be closed$") as caught:
            await part.close()
    assert len(held) >= at_least
    assert sorted(closed) == sorted(held)
    assert str(caught.value) == f"{closed[0]} cannot be closed"
    await part.close()


async def test_the_store_part(monkeypatch: pytest.MonkeyPatch) -> None:
    await _check(build_store(SETTINGS, Metrics(), Health(SystemClock())), monkeypatch, 4)


async def test_the_notify_part(monkeypatch: pytest.MonkeyPatch) -> None:
    await _check(build_notify(SETTINGS, Metrics(), Health(SystemClock())), monkeypatch, 5)


async def test_the_api_part(monkeypatch: pytest.MonkeyPatch) -> None:
    await _check(ApiPart(SETTINGS), monkeypatch, 3)


async def test_the_scoring_part(monkeypatch: pytest.MonkeyPatch) -> None:
    await _check(scoring_part(small_bundle(), Feed([], lag=0), Outbox()), monkeypatch, 5)
