"""The results of the throughput bench as tables and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from rich.console import Console
from rich.table import Table

mpl.use("Agg")
from matplotlib import pyplot as plt


def show(results: Mapping[str, Any], console: Console) -> None:
    """Print everything that was measured."""
    speeds = Table("what", "samples/s", "of the raw rate", title="In one run", title_justify="left")
    raw = results["raw_ingest_samples_per_s"]
    rows = [
        ("raw ingest: consume, decode, ring buffer", raw),
        ("end to end, default ensemble", results["end_to_end_samples_per_s"]),
    ]
    river = results["river"]
    if river:
        rows += [
            ("River HalfSpaceTrees, 50 trees, scoring only", river["scoring"]),
            ("River HalfSpaceTrees, 10 trees, scoring only", river["default_scoring"]),
            ("River HalfSpaceTrees, 10 trees, score and learn", river["default_learning"]),
        ]
    for name, speed in rows:
        speeds.add_row(name, f"{speed:,.0f}", f"{speed / raw:.2f}")
    console.print(speeds)
    console.print(f"CPU of the whole path, in CPU of raw ingest: {results['cpu_ratio_raw']:.1f}.")
    if not river:
        console.print("River is not installed: skipped.")
    grid = Table(
        "entities", "dims", "stride", "samples/s", "windows/s", "CPU s per million", "cores", "peak MB", "loop lag ≤ ms",
        title="End to end", title_justify="left",
    )  # fmt: skip
    for cell in results["grid"]:
        cores = cell["samples_per_s"] * cell["cpu_seconds_per_million"] / 1e6
        numbers = [cell["samples_per_s"], cell["windows_per_s"]]
        grid.add_row(
            *(f"{cell[key]:,}" for key in ("entities", "dims", "stride")),
            *(f"{number:,.0f}" for number in numbers),
            f"{cell['cpu_seconds_per_million']:.1f}",
            f"{cores:.2f}",
            f"{cell['peak_rss_mb']:,.0f}",
            f"{cell['loop_lag_ms']:.0f}",
        )
    console.print(grid)
    if results["latency"]:
        columns = ("load", "samples/s", "transitions", "p50 ms", "p99 ms", "p99.9 ms")
        latency = Table(*columns, title="Produce to visible", title_justify="left")
        for load in results["latency"]:
            numbers = [load[key] for key in ("rate", "transitions", "p50_ms", "p99_ms", "p999_ms")]
            latency.add_row(load["load"], *(f"{number:,.0f}" for number in numbers))
        console.print(latency)


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Save the speeds of the grid, with the raw rate and the peer as lines."""
    cells: Sequence[Mapping[str, Any]] = results["grid"]
    figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
    axes.barh([_label(cell) for cell in cells], [cell["samples_per_s"] for cell in cells], color="#2a6f97")
    lines = [("raw ingest, 38 metrics", results["raw_ingest_samples_per_s"], "#333333")]
    lines += (
        [("River HalfSpaceTrees, 50 trees", results["river_samples_per_s"], "#c1121f")] if results["river_samples_per_s"] else []
    )
    for name, speed, colour in lines:
        axes.axvline(speed, color=colour, linestyle="--", label=f"{name}: {speed:,.0f}/s")
    axes.invert_yaxis()
    axes.set_xlabel("samples a second, end to end")
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _label(cell: Mapping[str, Any]) -> str:
    return f"{cell['entities']:,} × {cell['dims']}, stride {cell['stride']}"
