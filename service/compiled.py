"""Numba, in the one way this service uses it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def kernel(function: Kernel) -> Kernel:
    """Compile ``function`` with numba: GIL-free, so that threads really run side by side.

    The compiled form is cached beside the source, or in numba's own folder. Where neither can be written (a read-only
    container without a home) numba refuses to cache; then it is compiled once per process.
    """
    try:
        return cast(Kernel, numba.njit(nogil=True, cache=True)(function))
    except RuntimeError:  # "no locator available": nowhere to cache
        return cast(Kernel, numba.njit(nogil=True)(function))
