"""The results of an evaluation: values that become JSON, and tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence

import msgspec
import numpy as np
from rich.table import Table
from rich.text import Text

from service.training.metrics import Rate, Reliability, poisson_rate, within_factor


class BudgetResult(msgspec.Struct, frozen=True, kw_only=True):
    """One series at one budget. ``rate``: accepted false alarms per row; ``*_random``: the recall of as many random rows."""

    rate: float
    alerts: int
    on_normal: int
    normal_rows: int
    event_recall: float
    event_recall_first50: float
    event_recall_random: float
    event_recall_first50_random: float


class SeriesReport(msgspec.Struct, frozen=True, kw_only=True):
    """One series. ``alerts`` counts alerted rows (each an onset under the budget), ``fired`` the alerts that would be sent;
    ``covered``: share of anomalous rows under a fired alert; ``outside``: share of the rows under one that lie in no event;
    ``rarest``: the calibration claims at most one window in so many. Shares are NaN (null in JSON) without a denominator."""

    set: str
    series: str
    dims: int
    train_rows: int
    test_rows: int
    anomalous_share: float
    events: int
    vus_pr: float
    vus_pr_random: float
    auc_pr: float
    event_recall: float
    event_recall_first50: float
    event_recall_random: float
    event_recall_first50_random: float
    event_precision: float
    false_positive_rate: float
    detection_delay: float
    alerts: int
    alerts_per_entity_day: Rate
    fired: int
    covered: float
    outside: float
    train_seconds: float
    us_per_window: float
    effective_windows: float
    rarest: int
    reliability: list[Reliability]
    reliability_adjusted: list[Reliability]
    budgets: dict[str, BudgetResult]


class BudgetSummary(msgspec.Struct, frozen=True, kw_only=True):
    """All series at one budget, pooled. ``within_twice``: share of series (with normal rows enough to expect two alarms)
    whose false-positive rate is at most twice the budget; ``times_budget``: pooled alarms on normal rows over the
    accepted number, with its Poisson interval; recalls are over all events."""

    series: int
    mean_false_positive_rate: float
    within_twice: float
    times_budget: Rate
    event_recall: float
    event_recall_first50: float
    event_recall_random: float
    event_recall_first50_random: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """An evaluation. ``macro_*``: the mean of the sets' means; ``macro_vus_pr_without[S]``: with set S left out."""

    macro_vus_pr: float
    macro_vus_pr_without: dict[str, float]
    macro_vus_pr_random: float
    sets: dict[str, float]
    seconds: float
    series: list[SeriesReport]
    budgets: dict[str, BudgetSummary]
    reliability: list[Reliability]
    reliability_adjusted: list[Reliability]

    def to_json(self) -> bytes:
        """The report as indented JSON; NaN is null."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1)


def macro(series: Sequence[SeriesReport], value: Callable[[SeriesReport], float], *, without: str | None = None) -> float:
    """The mean of the sets' means of ``value``, NaN left out, with one set left out where named."""
    sets = {one.set for one in series if one.set != without}
    return _mean([_mean([value(one) for one in series if one.set == name]) for name in sets])


def summarise(series: Sequence[SeriesReport], *, seconds: float) -> Report:
    """The report over all series; ``seconds``: what the evaluation took."""
    names = sorted({one.set for one in series})
    return Report(
        macro_vus_pr=macro(series, lambda one: one.vus_pr),
        macro_vus_pr_without={name: macro(series, lambda one: one.vus_pr, without=name) for name in names},
        macro_vus_pr_random=macro(series, lambda one: one.vus_pr_random),
        sets={name: _mean([one.vus_pr for one in series if one.set == name]) for name in names},
        seconds=seconds,
        series=list(series),
        budgets=budget_summaries(series),
        reliability=_pooled([one.reliability for one in series]),
        reliability_adjusted=_pooled([one.reliability_adjusted for one in series]),
    )


def budget_summaries(series: Sequence[SeriesReport]) -> dict[str, BudgetSummary]:
    """Every budget, over those series with enough normal rows to expect two false alarms at it (over all where none has)."""
    out = {}
    for name in series[0].budgets if series else ():
        results = [(one, one.budgets[name]) for one in series]
        counted = [pair for pair in results if pair[1].rate * pair[1].normal_rows >= 2.0] or results
        rates = [result.on_normal / max(result.normal_rows, 1) for _, result in counted]
        accepted = sum(result.rate * result.normal_rows for _, result in results)

        def over_events(
            value: Callable[[BudgetResult], float], pairs: Sequence[tuple[SeriesReport, BudgetResult]] = counted
        ) -> float:
            return sum(one.events * value(result) for one, result in pairs if one.events) / max(
                sum(one.events for one, _ in pairs), 1
            )

        out[name] = BudgetSummary(
            series=len(counted),
            mean_false_positive_rate=_mean(rates),
            within_twice=_mean([float(rate <= 2 * result.rate) for rate, (_, result) in zip(rates, counted, strict=True)]),
            times_budget=poisson_rate(sum(result.on_normal for _, result in results), accepted),
            event_recall=over_events(lambda result: result.event_recall),
            event_recall_first50=over_events(lambda result: result.event_recall_first50),
            event_recall_random=over_events(lambda result: result.event_recall_random),
            event_recall_first50_random=over_events(lambda result: result.event_recall_first50_random),
        )
    return out


def _pooled(tables: Sequence[Sequence[Reliability]]) -> list[Reliability]:
    """Each level over the series whose calibration supports it (over all where none does), weighted by their rows."""
    out = []
    for lines in zip(*tables, strict=True):
        supported = [line for line in lines if line.supported] or list(lines)
        rows = sum(line.rows for line in supported)
        observed_rows = sum(line.observed * line.rows for line in supported if line.rows)
        out.append(
            Reliability(lines[0].nominal, observed_rows / rows if rows else math.nan, rows, any(line.supported for line in lines))
        )
    return out


def _mean(values: Sequence[float]) -> float:
    kept = [value for value in values if not math.isnan(value)]
    return float(np.mean(kept)) if kept else math.nan


def tables(report: Report) -> list[Table]:
    """The report as tables: every series, the sets, the budgets, the reliability."""
    return [_series_table(report), _sets_table(report), _budget_table(report), _reliability_table(report)]


def _series_table(report: Report) -> Table:
    table = Table(title="Series", title_justify="left")
    table.add_column("series", no_wrap=True)
    names = ["VUS-PR", "random", "AUC-PR", "events", "recall", "(random)", "in 50 rows", "precision", "delay", "false alarms a day"]
    names += ["95 % interval", "fired", "covered", "outside", "train s", "µs a window", "rarest"]
    stacked = [name.replace(" ", "\n") for name in names]
    _columns(table, *stacked, whole=stacked)
    for one in report.series:
        alarms = one.alerts_per_entity_day
        table.add_row(
            Text(f"{one.set}/{one.series}"),  # names of files: no markup
            *(_shown(value) for value in (one.vus_pr, one.vus_pr_random, one.auc_pr)),
            str(one.events),
            *(
                _shown(value)
                for value in (one.event_recall, one.event_recall_random, one.event_recall_first50, one.event_precision)
            ),
            _shown(one.detection_delay, 0),
            _shown(alarms.rate),
            f"{_shown(alarms.low)}–{_shown(alarms.high)}",
            str(one.fired),
            *(_shown(value) for value in (one.covered, one.outside)),
            _shown(one.train_seconds, 1),
            _shown(one.us_per_window, 0),
            f"1 in {one.rarest:,}",
        )
    return table


def _sets_table(report: Report) -> Table:
    table = Table("set", "VUS-PR", title="Sets (macro: the mean of the sets' means)", title_justify="left")
    for name, value in report.sets.items():
        table.add_row(Text(name), _shown(value, 3))
    table.add_section()
    table.add_row("macro", _shown(report.macro_vus_pr, 3))
    if len(report.sets) > 1:
        for name, value in report.macro_vus_pr_without.items():
            table.add_row(Text(f"macro without {name}"), _shown(value, 3))
    table.add_row("macro of random scores", _shown(report.macro_vus_pr_random, 3))
    return table


def _budget_table(report: Report) -> Table:
    table = Table(title="Alert budgets (recall over events; in brackets, as many rows at random)", title_justify="left")
    table.add_column("budget")
    _columns(table, "series", "false alarms", "within 2×", "alarms / budget", "recall", "in 50 rows", whole={"alarms / budget"})
    for name, one in report.budgets.items():
        times = one.times_budget
        table.add_row(
            name,
            str(one.series),
            f"{one.mean_false_positive_rate:.3%}",
            f"{one.within_twice:.0%}",
            f"{_shown(times.rate)} ({_shown(times.low)}–{_shown(times.high)})",
            f"{_shown(one.event_recall)} ({_shown(one.event_recall_random)})",
            f"{_shown(one.event_recall_first50)} ({_shown(one.event_recall_first50_random)})",
        )
    return table


def _reliability_table(report: Report) -> Table:
    table = Table(title="Reliability: how often normal windows are this unusual", title_justify="left")
    _columns(
        table, "one in", "as calibrated", "as claimed in service", "series right within 3", "windows", "supported by calibration"
    )
    for at, (raw, claimed) in enumerate(zip(report.reliability, report.reliability_adjusted, strict=True)):
        seen: Mapping[bool, str] = {True: "yes", False: "no"}
        right = _mean([float(within_factor(one.reliability_adjusted[at])) for one in report.series])
        table.add_row(
            f"{1 / raw.nominal:,.0f}",
            _one_in(raw.observed),
            _one_in(claimed.observed),
            f"{right:.0%}",
            f"{raw.rows:,}",
            seen[raw.supported],
        )
    return table


def _columns(table: Table, *names: str, whole: Container[str] = ()) -> None:
    """Add columns of figures; those named ``whole`` are never broken, the others at spaces."""
    for name in names:
        table.add_column(name, justify="right", no_wrap=name in whole, overflow="fold")


def _one_in(share: float) -> str:
    if math.isnan(share):
        return "–"
    return f"one in {1 / share:,.0f}" if share > 0 else "never"


def _shown(value: float, digits: int = 2) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"
