"""``python -m tests.chaos``: the run, its table, and the verdict as exit status."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.chaos.harness import OTHERS, Chaos, Report
from tests.chaos.worker import MUTATIONS

console = Console()


def main() -> int:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(
        prog="make chaos", description="Kill, stop and restart workers and servers, and check that nothing is lost or duplicated."
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--rows-a-second", type=float, default=20.0, help="rows of each of 12 entities a second")
    parser.add_argument(
        "--mutation", choices=MUTATIONS, default="none", help="remove one step of the design: the run must then fail"
    )
    parser.add_argument("--json", type=Path, help="write the results here too")
    parser.add_argument("--only", choices=OTHERS, help="of the faults other than kills, inject only this one")
    parser.add_argument("--keep", type=Path, help="keep the workers' logs in this folder")
    options = parser.parse_args()
    if options.keep is not None and options.keep.exists() and any(options.keep.iterdir()):
        parser.error(f"{options.keep} is not empty: the files of another run would count as this one's. Name an empty folder.")
    with tempfile.TemporaryDirectory(prefix="tidewatch-chaos-") as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        chaos = Chaos(
            folder,
            seed=options.seed,
            kills=options.kills,
            mutation=options.mutation,
            rows_a_second=options.rows_a_second,
            others=(options.only,) if options.only else tuple(OTHERS),
            say=lambda text: console.log(text, highlight=False),
        )
        report = asyncio.run(chaos.run())
    show(report)
    if options.json is not None:
        options.json.write_text(json.dumps(as_json(report), indent=2))
    return 0 if report.good else 1


def as_json(report: Report) -> dict[str, Any]:
    """The report as plain values."""
    values = {field.name: getattr(report, field.name) for field in dataclasses.fields(report)}
    return {**values, "faults": dict(report.faults), "verdict": dataclasses.asdict(report.verdict), "good": report.good}


def show(report: Report) -> None:
    """The table."""
    table = Table(title=f"chaos, seed {report.seed}, mutation {report.mutation}, {report.seconds:.0f} s")
    table.add_column("what")
    table.add_column("count", justify="right")
    for fault, count in sorted(report.faults.items()):
        table.add_row(fault, str(count))
    table.add_section()
    table.add_row("kills that met work in flight", str(report.kills))
    table.add_row("fewest at one of the ten points", str(report.fewest))
    table.add_row("kills that did not (not counted)", str(report.not_counted))
    table.add_row("messages sent", f"{report.messages:,}")
    table.add_row("windows scored (oracle)", f"{report.windows:,}")
    table.add_row("windows left out, too near to a bound", str(report.left_out))
    for what, count in report.verdict.found.items():
        table.add_row(what, f"{count:,}")
    table.add_row("seconds from the last fault to all done", ", ".join(f"{one:.1f}" for one in report.recovery) or "never")
    table.add_section()
    for what, count in report.verdict.wrong.items():
        table.add_row(what, f"[red]{count}[/]" if count else "0")
    console.print(table)
    for example in report.verdict.examples[:40]:
        console.print(f"  {example}", highlight=False)
    console.print("[green]nothing lost, nothing twice[/]" if report.good else "[red]FAILED[/]")


if __name__ == "__main__":
    sys.exit(main())
