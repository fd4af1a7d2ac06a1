"""Data sets from files, and what is said of files that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from service.errors import DatasetError
from service.sources.files import read_dataset

T0 = 1_763_769_600_000


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Four training and three test rows of two metrics; the last is labelled."""
    path = tmp_path / "machine-1.npz"
    rows = np.arange(14, dtype=np.float32).reshape(7, 2)
    np.savez(path, train=rows[:4], test=rows[4:], label=np.array([0, 0, 1], np.uint8))
    return path


@pytest.mark.parametrize(("split", "start", "first", "labels"), [
    ("train", 0, 0, None),
    ("test", 4, 8, [0, 0, 1]),
    ("all", 0, 0, [0, 0, 0, 0, 0, 0, 1]),
])  # fmt: skip
def test_an_archive_is_read_by_its_split(archive: Path, split: Any, start: int, first: float, labels: list[int] | None) -> None:
    dataset = read_dataset(archive, split=split)
    (series,) = dataset.series
    assert dataset.schema.metrics == ("m00", "m01")
    assert dataset.schema.interval_ms == 60_000
    assert (series.entity, series.start_row, series.values[0, 0]) == ("machine-1", start, first)
    assert (None if series.labels is None else series.labels.tolist()) == labels


def test_the_interval_of_an_archive_can_be_told(archive: Path) -> None:
    assert read_dataset(archive, interval_ms=5000).schema.interval_ms == 5000


ROWS = [("a", 0, 1.0, 10.0), ("b", 0, 2.0, None), ("a", 1, 3.0, 30.0), ("a", 3, 4.0, 40.0), ("b", 1, 5.0, 50.0)]


def write(path: Path, *, timestamps: str = "ms") -> Path:
    """``ROWS`` (entity, row, cpu, mem) at 5 s in the format of the suffix."""
    times: list[Any] = [T0 + row * 5000 for _, row, _, _ in ROWS]
    if timestamps == "s":
        times = [time // 1000 for time in times]
    if timestamps == "iso":
        times = [str(np.datetime64(time, "ms")) + "Z" for time in times]
    table = pa.table({
        "timestamp": times,
        "entity": [entity for entity, _, _, _ in ROWS],
        "cpu": [cpu for _, _, cpu, _ in ROWS],
        "mem": [mem for _, _, _, mem in ROWS],
        "label": [0, 0, 0, 1, 0],
    })  # fmt: skip
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path)
    elif path.suffix == ".csv":
        pa.csv.write_csv(table, path)
    else:
        lines = [
            json.dumps({"entity": e, "timestamp": t, "values": {"cpu": cpu, "mem": mem}})
            for (e, _, cpu, mem), t in zip(ROWS, times, strict=True)
        ]
        path.write_text("\n".join(lines) + "\n\n")
    return path


@pytest.mark.parametrize(("name", "timestamps"), [
    ("x.csv", "ms"), ("x.csv", "s"), ("x.csv", "iso"),
    ("x.parquet", "ms"), ("x.parquet", "iso"),
    ("x.jsonl", "ms"), ("x.jsonl", "iso"),
])  # fmt: skip
def test_tables_lie_on_the_grid(tmp_path: Path, name: str, timestamps: str) -> None:
    dataset = read_dataset(write(tmp_path / name, timestamps=timestamps))
    assert dataset.schema.metrics == ("cpu", "mem")
    assert dataset.schema.interval_ms == 5000
    a, b = dataset.series
    assert (a.entity, b.entity, a.start_row, b.start_row) == ("a", "b", T0 // 5000, T0 // 5000)
    np.testing.assert_array_equal(a.values, np.array([[1, 10], [3, 30], [np.nan, np.nan], [4, 40]], np.float32))
    np.testing.assert_array_equal(b.values, np.array([[2, np.nan], [5, 50]], np.float32))
    if name != "x.jsonl":
        assert a.labels is not None
        assert a.labels.tolist() == [0, 0, 0, 1]


def test_a_table_without_entities_is_one_entity_and_a_long_hole_begins_a_new_series(tmp_path: Path) -> None:
    path = tmp_path / "pump.csv"
    times = [T0 + at * 1000 for at in (0, 1, 2, 2, 500, 501)]
    path.write_text("timestamp,flow\n" + "".join(f"{time},{at}\n" for at, time in enumerate(times)))
    one, two = read_dataset(path).series
    assert (one.entity, two.entity) == ("pump", "pump")
    assert one.values[:, 0].tolist() == [0, 1, 2]  # the same moment again is dropped
    assert (two.start_row - one.start_row, two.values[:, 0].tolist()) == (500, [4, 5])


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("x.txt", b"1,2", "not in a format that can be read"),
        ("x.csv", b"time,cpu\n1,2\n", "has no column timestamp (it has time, cpu)"),
        ("x.csv", b"timestamp,entity\n1,a\n", "no column with a metric"),
        ("x.csv", b"timestamp,cpu\n1763769600000,high\n1763769601000,low\n", "The column cpu of x.csv is not numeric"),
        ("x.csv", b"timestamp,cpu\n", "The time between rows cannot be measured"),
        ("x.csv", b"timestamp,cpu\n1763769600000,1\n", "The time between rows cannot be measured"),
        ("x.csv", b"timestamp,cpu\nsoon,1\nlater,2\n", "cannot be read"),
        ("x.csv", b"", "cannot be read"),
        ("x.parquet", b"PAR1 not really", "cannot be read"),
        ("x.npz", b"PK not really", "cannot be read"),
        ("x.jsonl", b'{"entity": "a", "timestamp": 1763769600000, "values": {"cpu": 1}}\n{"entity"', "Line 2 of x.jsonl"),
    ],
)
def test_a_file_that_is_no_data_set_is_told_with_what_to_do(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DatasetError) as error:
        read_dataset(path)
    assert told in str(error.value)
    assert error.value.hint


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"values": np.zeros((3, 2))}, "holds values, not train"),
        ({"train": np.zeros(3)}, "has the shape (3,)"),
        ({"train": np.zeros((3, 2)), "test": np.zeros((3, 4))}, "different numbers of metrics"),
        ({"train": np.zeros((3, 2)), "test": np.zeros((3, 2)), "label": np.zeros(2)}, "label in x.npz has the shape (2,)"),
        ({"train": np.array([["a"]])}, "has the shape"),
        ({"train": np.array([[object()]], object)}, "cannot be read"),
        ({"train": np.zeros((0, 2))}, "has no rows"),
    ],
)
def test_an_archive_of_another_form_is_refused(tmp_path: Path, arrays: dict[str, Any], told: str) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, **arrays)
    with pytest.raises(DatasetError) as error:
        read_dataset(path)
    assert told in str(error.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist"):
        read_dataset(tmp_path / "none.csv")


@pytest.mark.data
def test_the_labelled_series_can_be_read(data_dir: Path) -> None:
    path = next(iter(sorted((data_dir / "SMD").glob("*.npz"))))
    dataset = read_dataset(path)
    assert dataset.schema.dims == 38
    assert dataset.rows == sum(len(read_dataset(path, split=split).series[0].values) for split in ("train", "test"))
