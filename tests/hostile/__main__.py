"""``python -m tests.hostile``: a million hostile records for every codec; the sums, the cost, and the verdict as exit status."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from service.app import CODECS
from tests.hostile.run import Report, as_json, run, trained

console = Console()


def main() -> int:
    """Parse, run, print. Status 1 when a record was lost or good ones were affected; the cost is only printed."""
    parser = argparse.ArgumentParser(prog="make hostile", description="Send malformed and hostile records among good ones.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=1_000_000, help="hostile records for each codec")
    parser.add_argument("--made", type=int, default=20_000, help="how many of them hypothesis generates; the others are mutations")
    parser.add_argument("--share", type=float, default=0.1, help="share of hostile records when throughput is measured")
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    options = parser.parse_args()
    threadpool_limits(1)
    bundle = trained(38, quick=False)
    good = True
    for codec in CODECS:
        # The accounts with as many hostile records as good ones; the cost with the share of a bad feed.
        for name, count, share in ((codec, options.count, 0.5), (f"{codec}-cost", min(options.count, 50_000), options.share)):
            work = run(
                codec, bundle, seed=options.seed, count=count, made=min(options.made, count // 2), share=share, say=console.log
            )
            report = asyncio.run(work)
            show(report)
            options.out.mkdir(parents=True, exist_ok=True)
            (options.out / f"hostile-{name}.json").write_text(as_json(report))
            good = good and report.adds_up
    console.print("[green]every record is accounted for[/]" if good else "[red]FAILED[/]")
    return 0 if good else 1


def show(report: Report) -> None:
    """The table."""
    table = Table(title=f"hostile records, codec {report.codec}, {report.share:.0%} of all")
    table.add_column("what")
    table.add_column("count", justify="right")
    for reason, count in report.reasons.most_common():
        table.add_row(f"dead letter: {reason}", f"{count:,}")
    table.add_section()
    for what, count in (
        ("hostile records", report.hostile),
        ("in the dead letter", report.dead_letters),
        ("good messages after all", report.accepted),
        ("lost or counted twice", report.lost),
        ("good records refused", report.good_refused),
        ("windows of good records", report.windows),
        ("of these, different from what they are by themselves", report.windows_differ),
    ):
        table.add_row(what, f"{count:,}")
    table.add_section()
    table.add_row("CPU of a good record, µs", f"{report.good_us:.1f}")
    table.add_row("CPU of a hostile record, µs", f"{report.hostile_us:.1f}")
    table.add_row("throughput of the good ones, of theirs alone", f"{report.ratio:.0%}")
    table.add_row("peak memory, MB", f"{report.peak_rss_mb:,.0f}")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
