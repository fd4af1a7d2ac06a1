"""What is bad about the data: one look, check by check. Pure.

A finding has a name: that of its check where it is about the metrics topic, ``check/entity`` where it is about one entity.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import msgspec

from service.alerts.messages.message import listed
from service.alerts.times import span_words
from service.domain import DataSnapshot, HealthItems, HealthReport
from service.settings import DataHealthSettings

LEAST_READ = 100  # messages; the share of fewer is not worth telling, so they count with those that follow
DAY_MS = 86_400_000
NO_LONGER = "no longer watched"
MOST_LISTED = 5

_NOT_WELL = {"still": ("stands still", "stand still"), "empty": ("has only nulls", "have only nulls")}
_WELL_AGAIN = {"silent": "it sends again", "still": "what stood still moves again", "empty": "what had only nulls has values again"}


class DataFinding(msgspec.Struct, frozen=True, kw_only=True):
    """What one check found; ``words`` say it whether ``bad`` or not. About one entity: since when (event time, ms), which of its
    ``metrics``, and the ``partition`` it was reported from."""

    bad: bool
    words: str
    entity: str = ""
    since: int | None = None
    metrics: tuple[str, ...] = ()
    partition: int = -1


def name_of(check: str, entity: str) -> str:
    """The name of a finding about one entity."""
    return f"{check}/{entity}"


def check(seen: DataSnapshot, settings: DataHealthSettings, now: int) -> dict[str, DataFinding]:
    """What each check that has a bound found, by name; what cannot be said now is left out, and so is every entity that is well:
    that is ``of_entity``'s to say."""
    found: dict[str, DataFinding] = {}
    if settings.max_lag_records is not None:
        behind, most = sum(seen.lag.values()), settings.max_lag_records
        where = sum(lag > 0 for lag in seen.lag.values())
        words = f"{behind:,} messages of {where} partition{'' if where == 1 else 's'} are not read yet ({most:,} may be)"
        found["lag"] = DataFinding(bad=behind > most, words=words)
    if settings.max_rejected_share is not None and seen.read >= LEAST_READ:
        refused = sum(seen.rejected.values())
        mostly = f", mostly {max(seen.rejected, key=lambda reason: seen.rejected[reason])}" if seen.rejected else ""
        words = f"{refused:,} of {seen.read:,} messages were refused{mostly} ({settings.max_rejected_share:.0%} may be)"
        found["rejected"] = DataFinding(bad=refused / seen.read > settings.max_rejected_share, words=words)
    if settings.max_topic_idle_seconds is not None:
        words = f"nothing has arrived for {span_words(seen.quiet_ms)}" if seen.quiet_ms else "messages arrive"
        found["quiet"] = DataFinding(bad=seen.quiet_ms > settings.max_topic_idle_seconds * 1000, words=words)
    if settings.max_late_share is not None and seen.taken >= LEAST_READ:
        words = f"{seen.late:,} of {seen.taken:,} messages came too late to be used ({settings.max_late_share:.0%} may be)"
        found["late"] = DataFinding(bad=seen.late / seen.taken > settings.max_late_share, words=words)
    reports = list(seen.reports.values())
    if settings.max_model_age_days is not None and reports:
        found["model"] = _model_age(reports, settings.max_model_age_days, now)
    for report in reports:
        if settings.max_entity_silence_seconds is not None:
            found |= _silent(report, settings.max_entity_silence_seconds)
        if settings.still_metrics:
            found |= _metrics("still", report.still, report.partition)
        if settings.empty_metrics:
            found |= _metrics("empty", report.empty, report.partition)
    return found | _not_named(reports, settings)


def of_entity(name: str, partition: int, seen: DataSnapshot, settings: DataHealthSettings) -> DataFinding | None:
    """What can be said of an entity that was found bad before and is not any more; None when its partition's report is too old, or
    its list names only some."""
    kind, _, entity = name.partition("/")
    report = seen.reports.get(partition)
    if kind not in settings.watched or report is None:
        return None
    if any(one.entity == entity for one in report.forgotten):
        words = f"{NO_LONGER}: it sent nothing for so long that it was forgotten (stream.idle_after_seconds)"
        return DataFinding(bad=False, words=words, entity=entity, partition=partition)
    told: HealthItems = getattr(report, kind)
    return DataFinding(bad=False, words=_WELL_AGAIN[kind], entity=entity, partition=partition) if told.complete else None


def _model_age(reports: Sequence[HealthReport], most_days: float, now: int) -> DataFinding:
    trained = {model.name: model.trained_at for report in reports for model in report.models}
    old = sorted((at, name) for name, at in trained.items() if now - at > most_days * DAY_MS)
    aged = [f"{name} (trained {span_words(now - at)} ago)" for at, name in old]
    if not aged:
        return DataFinding(bad=False, words="every model is younger than that again" if trained else "no worker reports a model")
    model = "a model is" if len(old) == 1 else f"{len(old)} models are"
    return DataFinding(bad=True, words=f"{model} older than {most_days:g} days: {listed(_few(aged))}")


def _silent(report: HealthReport, bound: float) -> dict[str, DataFinding]:
    words = f"it sends nothing any more ({span_words(round(bound * 1000))} of silence may be)"
    return {
        name_of("silent", one.entity): DataFinding(
            bad=True, words=words, entity=one.entity, since=one.since, partition=report.partition
        )
        for one in report.silent.named
    }


def _metrics(kind: str, told: HealthItems, partition: int) -> dict[str, DataFinding]:
    by_entity: dict[str, dict[str, int]] = defaultdict(dict)
    for one in told.named:
        by_entity[one.entity][one.metric] = one.since
    found = {}
    for entity, since in by_entity.items():
        metrics = tuple(sorted(since))
        words = f"{listed(_few(metrics))} {_NOT_WELL[kind][len(metrics) > 1]} over a whole window, which training hardly ever saw"
        found[name_of(kind, entity)] = DataFinding(
            bad=True, words=words, entity=entity, since=min(since.values()), metrics=metrics, partition=partition
        )
    return found


def _not_named(reports: Sequence[HealthReport], settings: DataHealthSettings) -> dict[str, DataFinding]:
    """About the topic: that there are more than are named one by one."""
    what = {"silent": "entities are silent", "still": "metrics stand still", "empty": "metrics have only nulls"}
    found: dict[str, DataFinding] = {}
    for kind in sorted(what.keys() & settings.watched) if reports else ():
        lists: list[HealthItems] = [getattr(report, kind) for report in reports]
        count, named = sum(one.count for one in lists), sum(len(one.named) for one in lists)
        if all(one.complete for one in lists):
            found[kind] = DataFinding(bad=False, words=f"only as many {what[kind]} as have alerts of their own")
        else:
            words = f"{count:,} {what[kind]}; only the {named:,} longest so have alerts of their own"
            found[kind] = DataFinding(bad=True, words=words)
    return found


def _few(names: Sequence[str]) -> list[str]:
    """The first ones, and how many more there are."""
    more = len(names) - MOST_LISTED
    return [*names] if more <= 0 else [*names[:MOST_LISTED], f"{more:,} more"]
