"""Data sets from files: NumPy archives of labelled series, tables (CSV, Parquet) and native messages (JSON lines)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from service.domain import I64, Dataset, Record, Schema, Series
from service.errors import DatasetError, InvalidMessage
from service.sources.codecs.message import EARLIEST_MS, unnamed_metrics
from service.sources.grid import to_dataset
from service.sources.topic_dataset import MessageRows

Split = Literal["train", "test", "all"]
DEFAULT_INTERVAL_MS = 60_000  # of a NumPy archive, which has no times
_RESERVED = ("timestamp", "entity", "label")
_TABLE_HINT = "A table needs a column timestamp, numeric columns for the metrics and, for several entities, a column entity."


def read_dataset(path: Path, *, split: Split = "all", interval_ms: int | None = None) -> Dataset:
    """Read ``path``.

    ``.npz`` holds ``train`` and ``test`` (rows × metrics) and optionally ``label`` (of the test rows). Its test rows follow its
    training rows in time, metrics are named m00, m01, … and the interval is a minute unless given. The other formats have no
    split and are read whole; their interval is the median step unless given.

    Raises ``DatasetError`` with a hint.
    """
    suffix = path.suffix.lower()
    if suffix not in (".npz", *_TABLES):
        raise DatasetError(f"{path.name} is not in a format that can be read.", hint=f"Give one of .npz, {', '.join(_TABLES)}.")
    if not path.is_file():
        raise DatasetError(f"The file {path} does not exist.", hint="Check the path.")
    try:
        dataset = _read_npz(path, split, interval_ms) if suffix == ".npz" else _TABLES[suffix](path, interval_ms)
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:  # what the libraries raise for a broken file
        raise DatasetError(f"{path.name} cannot be read: {error}.", hint="Is it complete, and is its suffix right?") from error
    if not dataset.rows:
        raise DatasetError(f"{path.name} has no rows.", hint="Give a file with rows in it.")
    return dataset


def _read_npz(path: Path, split: Split, interval_ms: int | None) -> Dataset:
    with np.load(path, allow_pickle=False) as archive:
        parts = {name: archive[name] for name in ("train", "test", "label") if name in archive}
        names = ", ".join(archive.files) or "nothing"
    wanted = ("train", "test") if split == "all" else (split,)
    if not any(name in parts for name in wanted):
        raise DatasetError(
            f"{path.name} holds {names}, not {' or '.join(wanted)}.", hint="An archive needs train and test, rows × metrics."
        )
    for name in ("train", "test"):
        if name in parts and (parts[name].ndim != 2 or parts[name].dtype.kind not in "fiu"):
            raise DatasetError(
                f"{name} in {path.name} has the shape {parts[name].shape}.", hint="It must be numbers, rows × metrics."
            )
    widths = {parts[name].shape[1] for name in ("train", "test") if name in parts}
    if len(widths) > 1:
        raise DatasetError(f"train and test in {path.name} have different numbers of metrics.", hint="They must be one series.")
    values, labels = [], []
    for name in wanted:
        if name in parts:
            values.append(parts[name].astype(np.float32))
            labels.append(_labels(path, name, parts, len(values[-1])))
    start = len(parts["train"]) if split == "test" and "train" in parts else 0
    dims = widths.pop()
    metrics = unnamed_metrics(dims)
    marked = np.concatenate(labels) if "label" in parts and "test" in wanted else None
    series = Series(path.stem, start, np.concatenate(values), marked)
    return Dataset(Schema(metrics, interval_ms or DEFAULT_INTERVAL_MS), (series,))


def _labels(path: Path, name: str, parts: dict[str, Any], rows: int) -> Any:
    """The labels of the test rows; training rows count as normal."""
    if name == "train" or "label" not in parts:
        return np.zeros(rows, np.uint8)
    if parts["label"].shape != (rows,):
        raise DatasetError(
            f"label in {path.name} has the shape {parts['label'].shape}.", hint=f"It must be ({rows},), one per test row."
        )
    return parts["label"].astype(np.uint8)


def _read_csv(path: Path, interval_ms: int | None) -> Dataset:
    return _from_table(path, pyarrow.csv.read_csv(path), interval_ms)


def _read_parquet(path: Path, interval_ms: int | None) -> Dataset:
    return _from_table(path, pyarrow.parquet.read_table(path), interval_ms)


def _from_table(path: Path, table: pa.Table, interval_ms: int | None) -> Dataset:
    if "timestamp" not in table.column_names:
        raise DatasetError(f"{path.name} has no column timestamp (it has {', '.join(table.column_names)}).", hint=_TABLE_HINT)
    metrics = [name for name in table.column_names if name not in _RESERVED]
    if not metrics:
        raise DatasetError(f"{path.name} has no column with a metric.", hint=_TABLE_HINT)
    for name in metrics:
        kind = table.schema.field(name).type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind) or pa.types.is_boolean(kind)):
            raise DatasetError(
                f"The column {name} of {path.name} is not numeric.", hint="Remove it, or name it entity, label or timestamp."
            )
    entities = [path.stem] * len(table)
    if "entity" in table.column_names:
        entities = [str(entity) for entity in table.column("entity").to_pylist()]
    labels = None
    if "label" in table.column_names:
        labels = np.asarray(pc.fill_null(table.column("label").cast(pa.float64()), 0.0)).astype(np.uint8)
    values = np.column_stack([np.asarray(table.column(name).cast(pa.float64()), np.float64) for name in metrics]).astype(np.float32)
    values[~np.isfinite(values)] = np.nan
    return to_dataset(metrics, entities, _times(path, table.column("timestamp")), values, labels=labels, interval_ms=interval_ms)


def _times(path: Path, column: pa.ChunkedArray) -> I64:
    """Milliseconds. Times without a zone are UTC; numbers too small for milliseconds are seconds."""
    if column.null_count:
        raise DatasetError(f"{path.name} has rows without a timestamp.", hint="Remove them.")
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        return np.asarray(column.cast(pa.timestamp("ms"), safe=False).cast(pa.int64()), np.int64)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return _times(path, column.cast(pa.timestamp("ms", tz="UTC")))
    times = np.asarray(column.cast(pa.float64()), np.float64)
    return np.floor(times * 1000 + 1e-6 if len(times) and times.max() < EARLIEST_MS else times).astype(np.int64)


def _read_jsonl(path: Path, interval_ms: int | None) -> Dataset:
    rows = MessageRows()
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                rows.add(Record(path.name, 0, number, 0, None, line))
            except InvalidMessage as error:
                raise DatasetError(
                    f"Line {number} of {path.name}: {error}", hint="Every line must be a metrics message."
                ) from error
    return rows.dataset(interval_ms)


_TABLES: dict[str, Callable[[Path, int | None], Dataset]] = {".csv": _read_csv, ".parquet": _read_parquet, ".jsonl": _read_jsonl}
