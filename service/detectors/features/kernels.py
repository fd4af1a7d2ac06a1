"""Compiled kernels over windows. They release the interpreter's lock, so detectors run in parallel, and are cached on disk.

In all of them window i is the rows that end before ``ends[i]``, scaled by row ``which[i]`` of ``centre`` and ``inverse`` (tables,
dims).
"""

from __future__ import annotations

import numpy as np

from service.compiled import kernel
from service.domain import F32, I64

# Scaled values are clipped here: beyond it only that a value is far counts, not how far.
CLIP = 10.0


@kernel
def summaries(rows: F32, ends: I64, which: I64, centre: F32, inverse: F32, span: int, mean: F32, spread: F32) -> None:
    """Write each window's mean and range over its newest ``span`` scaled rows into ``mean`` and ``spread``, (n, dims)."""
    dims = rows.shape[1]
    low = np.empty(dims, np.float32)
    high = np.empty(dims, np.float32)
    total = np.empty(dims, np.float32)
    for i in range(ends.shape[0]):
        table = which[i]
        low[:] = np.float32(np.inf)
        high[:] = np.float32(-np.inf)
        total[:] = np.float32(0)
        for r in range(ends[i] - span, ends[i]):
            for j in range(dims):
                z = (rows[r, j] - centre[table, j]) * inverse[table, j]
                z = z if z == z else np.float32(0)
                z = min(max(z, np.float32(-CLIP)), np.float32(CLIP))
                total[j] += z
                low[j] = min(low[j], z)
                high[j] = max(high[j], z)
        for j in range(dims):
            mean[i, j] = total[j] / np.float32(span)
            spread[i, j] = high[j] - low[j]


@kernel
def deviations(rows: F32, ends: I64, which: I64, centre: F32, inverse: F32, span: int, mean: F32, out: F32) -> None:
    """Write each window's standard deviation about ``mean`` over its newest ``span`` scaled rows into ``out``, (n, dims)."""
    dims = rows.shape[1]
    total = np.empty(dims, np.float32)
    for i in range(ends.shape[0]):
        table = which[i]
        total[:] = np.float32(0)
        for r in range(ends[i] - span, ends[i]):
            for j in range(dims):
                z = (rows[r, j] - centre[table, j]) * inverse[table, j]
                z = z if z == z else np.float32(0)
                z = min(max(z, np.float32(-CLIP)), np.float32(CLIP)) - mean[i, j]
                total[j] += z * z
        for j in range(dims):
            out[i, j] = np.sqrt(total[j] / np.float32(span))


@kernel
def scaled(rows: F32, ends: I64, which: I64, centre: F32, inverse: F32, out: F32) -> None:
    """Write the scaled windows themselves into ``out``, (n, window, dims)."""
    window = out.shape[1]
    for i in range(ends.shape[0]):
        table = which[i]
        for w in range(window):
            r = ends[i] - window + w
            for j in range(rows.shape[1]):
                z = (rows[r, j] - centre[table, j]) * inverse[table, j]
                z = z if z == z else np.float32(0)
                out[i, w, j] = min(max(z, np.float32(-CLIP)), np.float32(CLIP))


@kernel
def forecast_errors(
    rows: F32, ends: I64, which: I64, centre: F32, inverse: F32, weights: F32, units: F32, smooth: int, out: F32
) -> None:
    """Write each window's mean absolute error of forecasting its newest ``smooth`` scaled rows into ``out``, (n, dims).

    ``weights``: (lags + 1, dims), the coefficients of each metric's own last values, newest first, then the constant; ``units``:
    (dims,), multiplies an error, which then counts for ``CLIP`` at most.
    """
    dims = rows.shape[1]
    lags = weights.shape[0] - 1
    block = np.empty((smooth + lags, dims), np.float32)
    error = np.empty(dims, np.float32)
    total = np.empty(dims, np.float32)
    most = np.float32(CLIP)
    for i in range(ends.shape[0]):
        table = which[i]
        first = ends[i] - smooth - lags
        # Conditional expressions: with min and max the compiler does not vectorise these loops over metrics.
        for w in range(smooth + lags):
            for j in range(dims):
                z = (rows[first + w, j] - centre[table, j]) * inverse[table, j]
                z = z if z == z else np.float32(0)
                z = z if z < most else most  # noqa: FURB136
                block[w, j] = z if z > -most else -most  # noqa: FURB136
        total[:] = np.float32(0)
        for w in range(lags, smooth + lags):
            for j in range(dims):
                error[j] = block[w, j] - weights[lags, j]
            for k in range(lags):
                for j in range(dims):
                    error[j] -= weights[k, j] * block[w - 1 - k, j]
            for j in range(dims):
                e = abs(error[j]) * units[j]
                total[j] += e if e < most else most  # noqa: FURB136
        for j in range(dims):
            out[i, j] = total[j] / np.float32(smooth)
