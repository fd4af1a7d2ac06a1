"""The data-health checks: what one snapshot of the metrics topic shows. Pure.

A finding's name is that of its check if it is about the metrics topic, and ``check/entity`` if it is about one entity.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import msgspec

from service.alerts.messages.message import listed
from service.alerts.times import span_words
from service.domain import DataSnapshot, HealthItems, HealthReport
from service.settings import DataHealthSettings

LEAST_READ = 100  # messages; a share of fewer means little, so they are counted together with those that follow
DAY_MS = 86_400_000
NO_LONGER = "no longer watched"
MOST_LISTED = 5

_NOT_WELL = {"still": ("stands still", "stand still"), "empty": ("has only nulls", "have only nulls")}
_WELL_AGAIN = {"silent": "it sends again", "still": "what stood still moves again", "empty": "what had only nulls has values again"}


class DataFinding(msgspec.Struct, frozen=True, kw_only=True):
    """What one check found. ``message`` becomes the reason of the transition, whether ``bad`` or not. About one entity: ``since``
    (event time, ms), which of its ``metrics``, its ``labels``, and the ``partition`` it was reported from."""

    bad: bool
    message: str
    entity: str = ""
    since: int | None = None
    metrics: tuple[str, ...] = ()
    partition: int = -1
    labels: Mapping[str, str] = {}


def name_of(check: str, entity: str) -> str:
    """The name of a finding about one entity."""
    return f"{check}/{entity}"


def check(seen: DataSnapshot, settings: DataHealthSettings, now: int) -> dict[str, DataFinding]:
    """The finding of each check that has a bound, by name. A check that cannot decide now gives none. Of entities only the bad ones
    are found; ``recovery_of`` finds those that are well again."""
    found: dict[str, DataFinding] = {}
    if settings.max_lag_records is not None:
        behind, most = sum(seen.lag.values()), settings.max_lag_records
        where = sum(lag > 0 for lag in seen.lag.values())
        message = f"{behind:,} messages of {where} partition{'' if where == 1 else 's'} are not read yet ({most:,} allowed)"
        found["lag"] = DataFinding(bad=behind > most, message=message)
    if settings.max_rejected_share is not None and seen.read >= LEAST_READ:
        refused = sum(seen.rejected.values())
        mostly = f", mostly {max(seen.rejected, key=lambda reason: seen.rejected[reason])}" if seen.rejected else ""
        message = f"{refused:,} of {seen.read:,} messages were refused{mostly} ({settings.max_rejected_share:.0%} allowed)"
        found["rejected"] = DataFinding(bad=refused / seen.read > settings.max_rejected_share, message=message)
    if settings.max_topic_idle_seconds is not None:
        message = f"nothing has arrived for {span_words(seen.quiet_ms)}" if seen.quiet_ms else "messages arrive"
        found["quiet"] = DataFinding(bad=seen.quiet_ms > settings.max_topic_idle_seconds * 1000, message=message)
    if settings.max_late_share is not None and seen.taken >= LEAST_READ:
        message = f"{seen.late:,} of {seen.taken:,} messages came too late to be used ({settings.max_late_share:.0%} allowed)"
        found["late"] = DataFinding(bad=seen.late / seen.taken > settings.max_late_share, message=message)
    reports = list(seen.reports.values())
    if settings.max_model_age_days is not None and reports:
        found["model"] = _model_age(reports, settings.max_model_age_days, now)
    for report in reports:
        if settings.max_entity_silence_seconds is not None:
            found |= _silent(report, settings.max_entity_silence_seconds)
        if settings.still_metrics:
            found |= _metrics("still", report.still, report)
        if settings.empty_metrics:
            found |= _metrics("empty", report.empty, report)
    return found | _unnamed(reports, settings)


def recovery_of(name: str, partition: int, seen: DataSnapshot, settings: DataHealthSettings) -> DataFinding | None:
    """The good finding about an entity that was found bad before and is not named any more. ``None`` if its partition has no report
    that is new enough, or the report's list is incomplete: then it proves nothing."""
    kind, _, entity = name.partition("/")
    report = seen.reports.get(partition)
    if kind not in settings.watched or report is None:
        return None
    if any(one.entity == entity for one in report.forgotten):
        message = f"{NO_LONGER}: it sent nothing for so long that it was forgotten (stream.idle_after_seconds)"
        return DataFinding(bad=False, message=message, entity=entity, partition=partition)
    listing: HealthItems = getattr(report, kind)
    return DataFinding(bad=False, message=_WELL_AGAIN[kind], entity=entity, partition=partition) if listing.complete else None


def _model_age(reports: Sequence[HealthReport], most_days: float, now: int) -> DataFinding:
    trained = {model.name: model.trained_at for report in reports for model in report.models}
    old = sorted((at, name) for name, at in trained.items() if now - at > most_days * DAY_MS)
    aged = [f"{name} (trained {span_words(now - at)} ago)" for at, name in old]
    if not aged:
        return DataFinding(bad=False, message="no model is older than allowed" if trained else "no scoring process reports a model")
    model = "a model is" if len(old) == 1 else f"{len(old)} models are"
    return DataFinding(bad=True, message=f"{model} older than {most_days:g} days: {listed(_few(aged))}")


def _silent(report: HealthReport, bound: float) -> dict[str, DataFinding]:
    message = f"it sends nothing any more ({span_words(round(bound * 1000))} of silence allowed)"
    return {
        name_of("silent", one.entity): DataFinding(
            bad=True,
            message=message,
            entity=one.entity,
            since=one.since,
            partition=report.partition,
            labels=report.labels.get(one.entity, {}),
        )
        for one in report.silent.named
    }


def _metrics(kind: str, listing: HealthItems, report: HealthReport) -> dict[str, DataFinding]:
    by_entity: dict[str, dict[str, int]] = defaultdict(dict)
    for one in listing.named:
        by_entity[one.entity][one.metric] = one.since
    found = {}
    for entity, since in by_entity.items():
        metrics = tuple(sorted(since))
        message = f"{listed(_few(metrics))} {_NOT_WELL[kind][len(metrics) > 1]} over a whole window, which training hardly ever saw"
        found[name_of(kind, entity)] = DataFinding(
            bad=True,
            message=message,
            entity=entity,
            since=min(since.values()),
            metrics=metrics,
            partition=report.partition,
            labels=report.labels.get(entity, {}),
        )
    return found


def _unnamed(reports: Sequence[HealthReport], settings: DataHealthSettings) -> dict[str, DataFinding]:
    """About the topic: whether there are more bad entities or metrics than the reports name."""
    what = {"silent": "silent entities", "still": "metrics that stand still", "empty": "metrics with only nulls"}
    found: dict[str, DataFinding] = {}
    for kind in sorted(what.keys() & settings.watched) if reports else ():
        lists: list[HealthItems] = [getattr(report, kind) for report in reports]
        count, named = sum(one.count for one in lists), sum(len(one.named) for one in lists)
        if all(one.complete for one in lists):
            found[kind] = DataFinding(bad=False, message=f"all {what[kind]} have alerts of their own")
        else:
            message = f"there are {count:,} {what[kind]}; only the {named:,} that have been so for longest have alerts of their own"
            found[kind] = DataFinding(bad=True, message=message)
    return found


def _few(names: Sequence[str]) -> list[str]:
    """The first ones, and how many more there are."""
    more = len(names) - MOST_LISTED
    return [*names] if more <= 0 else [*names[:MOST_LISTED], f"{more:,} more"]
