"""How functions are compiled with Numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def kernel(function: Kernel) -> Kernel:
    """Compile ``function`` with Numba. It runs without the GIL, so threads run in parallel.

    The compiled form is cached next to the source, or in Numba's own folder. Where neither can be written (a read-only
    container without a home) it is compiled once per process.
    """
    try:
        return cast(Kernel, numba.njit(nogil=True, cache=True)(function))
    except RuntimeError:  # "no locator available": nowhere to cache
        return cast(Kernel, numba.njit(nogil=True)(function))
