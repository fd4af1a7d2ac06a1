"""What the tests of this room share."""

from __future__ import annotations

import pytest

from service.detectors.bundle import Bundle
from tests.stream.small import small_bundle


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    """Three metrics, windows of 20, stride 5."""
    return small_bundle()
