"""Data frames as rows of a grid. Whatever has columns, an index and ``to_numpy`` is one, so pandas need not be installed."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.domain import F32, I64
from service.errors import ConfigError


def is_frame(item: Any) -> bool:
    """True for a data frame: names of columns, and an index."""
    return hasattr(item, "columns") and hasattr(item, "index") and hasattr(item, "to_numpy")


def names_of(frame: Any) -> tuple[str, ...]:
    """The names of its columns."""
    return tuple(map(str, frame.columns))


def values_of(frame: Any, metrics: Sequence[str]) -> F32:
    """float32 (n, metrics) in the order of ``metrics``. Raises ``ConfigError`` naming columns that are missing or unknown."""
    names = names_of(frame)
    missing, unknown = (sorted(set(a) - set(b)) for a, b in ((metrics, names), (names, metrics)))
    if missing or unknown or len(names) != len(metrics):
        wrong = f"lacks {', '.join(missing)}" if missing else f"has {', '.join(unknown) or 'a column twice'}"
        raise ConfigError(f"The frame {wrong}.", hint=f"Its columns must be the metrics trained on: {', '.join(metrics)}.")
    columns: NDArray[Any] = np.asarray(frame.to_numpy(), np.float32)
    return columns[:, [names.index(metric) for metric in metrics]]


def times_of(frame: Any) -> I64 | None:
    """The times of its rows in ms since the epoch, int64 (n,); None where the index holds no times.

    Raises ``ConfigError`` where they do not rise.
    """
    index = np.asarray(frame.index)
    if index.dtype.kind == "M":
        times = index.astype("datetime64[ms]").astype(np.int64)
    elif getattr(getattr(frame.index, "dtype", None), "tz", None) is not None:  # pandas keeps times of a zone in UTC
        times = frame.index.tz_convert("UTC").tz_localize(None).to_numpy().astype("datetime64[ms]").astype(np.int64)
    else:
        return None
    if (np.diff(times) <= 0).any():
        raise ConfigError("The times of the frame do not rise from row to row.", hint="Sort it by its index; drop doubled times.")
    return times


def runs(rows: I64) -> Iterator[slice]:
    """Slices of rows without a gap between them."""
    edges = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
    for start, stop in itertools.pairwise(edges):
        if stop > start:
            yield slice(start, stop)


def joined(parts: Sequence[Any]) -> Any:
    """Frames of one stream as one, in their order."""
    return importlib.import_module("pandas").concat(parts)  # whoever gives frames has it
