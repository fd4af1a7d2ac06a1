"""The expected results, computed from the metrics topic: simply, slowly, and without the service's code for windows, episodes or
grouping. Only the model (scores and levels) is the service's.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from service.detectors.bundle import Bundle
from service.detectors.window_scorer import WindowScorer
from service.domain import MetricShare, Schema, Verdict, WindowBatch
from service.settings import EpisodeSettings, Settings

MARGIN = 1e-6  # windows whose surprise (or score) is this near to a bound: their entity is not judged
MOST_EARLY = 2  # windows between two of the grid
RANK = {"info": 0, "warning": 1, "critical": 2}
FLOOR = {"info": 0.0, "warning": 0.7, "critical": 0.9}


@dataclass
class Expected:
    """The expected results. ``transitions``: (alert id, seq, action, severity) of each alert in order."""

    transitions: list[tuple[str, int, str, str]] = field(default_factory=list)
    refused: set[tuple[int, int]] = field(default_factory=set)  # (partition, offset)
    windows: int = 0
    early: int = 0  # of these, between two of the grid
    left_out: set[str] = field(default_factory=set)  # entities too near to a bound
    left_out_windows: int = 0
    entity_of: dict[str, str] = field(default_factory=dict)


@dataclass
class Row:
    """One accepted message."""

    offset: int
    values: list[float | None]


class Life:
    """One entity's current run of rows."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.start = self.newest = 0
        # The newest row that ended a window, early windows since the last one of the grid, and the rows of all early ones.
        self.last_due = self.early = 0
        self.early_rows: set[int] = set()


def read(value: bytes | None, metrics: Sequence[str], far: int) -> tuple[str, int, list[float | None]] | None:
    """Entity, timestamp and values of a good message; None for any other."""
    try:
        told = json.loads(value or b"")
        stamp, values = told["timestamp"], told["values"]
        if not isinstance(stamp, int) or stamp > far or not isinstance(values, dict):
            return None
        numbers = [values.get(name) for name in metrics]
        if any(number is not None and not isinstance(number, (int, float)) for number in numbers):
            return None
        return str(told["entity"]), stamp, numbers
    except (ValueError, KeyError, TypeError):
        return None


async def expect(records: Mapping[int, Sequence[Any]], settings: Settings, detector: WindowScorer) -> Expected:
    """``records``: every message of the metrics topic by partition, in order."""
    expected = Expected()
    schema, stride = detector.bundle.schema, detector.bundle.stride
    due: dict[str, list[tuple[int, Any, Any, int, int, int]]] = defaultdict(list)
    for partition, messages in records.items():
        lives: dict[str, Life] = {}
        for message in messages:
            good = read(message.value, schema.metrics, message.timestamp + round(settings.stream.max_ahead_seconds * 1000))
            if good is None:
                expected.refused.add((partition, message.offset))
                continue
            entity, stamp, values = good
            life = lives.setdefault(entity, Life())
            row = stamp // schema.interval_ms
            for end in arrive(life, row, Row(message.offset, values), settings):
                if (end + zlib.crc32(entity.encode())) % stride == 0:
                    life.last_due, life.early = end, 0
                elif end == row and life.early < MOST_EARLY and jumped(life, row, entity, detector.bundle):
                    life.last_due, life.early = row, life.early + 1
                    life.early_rows.add(row)
                    expected.early += end >= life.start + detector.bundle.window - 1
                elif end - stride in life.early_rows:
                    life.last_due = end
                    expected.early += end >= life.start + detector.bundle.window - 1
                else:
                    continue
                if end >= life.start + detector.bundle.window - 1:
                    due[entity].append((end, *window(life, end, detector.bundle.window, schema.dims), partition))
    for entity, windows in due.items():
        verdicts = await score(entity, windows, schema, detector)
        expected.windows += len(verdicts)
        if any(near(verdict, settings.alerts) for verdict in verdicts):
            expected.left_out.add(entity)
            expected.left_out_windows += len(verdicts)
            continue
        for transition in follow(entity, verdicts, settings.alerts):
            expected.transitions.append(transition)
            expected.entity_of[transition[0]] = entity
    return expected


def arrive(life: Life, row: int, what: Row, settings: Settings) -> range:
    """Add one row; the rows at which it may complete a window."""
    gap, late = settings.stream.max_gap_rows, int(settings.stream.allowed_lateness_seconds)  # rows are seconds here
    if not life.rows or row > life.newest + gap + 1:
        life.rows, life.start, life.newest, life.last_due, life.early = {row: what}, row, row, row, 0
        life.early_rows = set()
        return range(row, row + 1)
    if row > life.newest:
        first, life.newest = life.newest + 1, row
        life.rows[row] = what
        return range(first, row + 1)
    if row not in life.rows and row >= life.start and life.newest - row <= late:
        life.rows[row] = what
    return range(0)


def jumped(life: Life, row: int, entity: str, bundle: Bundle) -> bool:
    """Whether this row lies far from the row at which a window was last due; only metrics observed in both count."""
    if bundle.early_change is None or life.last_due not in life.rows:
        return False
    changes = 0.0
    for metric, (new, old) in enumerate(zip(life.rows[row].values, life.rows[life.last_due].values, strict=True)):
        if new is not None and old is not None:
            change = np.abs(np.float32(new) - np.float32(old)) / bundle.scaler.scale(entity)[metric]
            changes += min(float(change), 10.0)
    return changes / bundle.schema.dims > bundle.early_change


def window(life: Life, end: int, length: int, dims: int) -> tuple[Any, Any, int, int]:
    """Values, mask, first and last offset of the window that ends at ``end``; missing values hold the last seen one."""
    values, mask = np.full((length, dims), np.nan, np.float32), np.zeros((length, dims), bool)
    offsets = []
    for at, row in enumerate(range(end - length + 1, end + 1)):
        here = life.rows.get(row)
        if here is not None:
            offsets.append(here.offset)
        for metric in range(dims):
            if here is not None and here.values[metric] is not None:
                values[at, metric], mask[at, metric] = here.values[metric], True
                continue
            back = row - 1
            while back >= life.start:
                seen = life.rows.get(back)
                if seen is not None and seen.values[metric] is not None:
                    values[at, metric] = seen.values[metric]
                    break
                back -= 1
    return values, mask, min(offsets), max(offsets)


async def score(entity: str, windows: Sequence[Any], schema: Schema, detector: WindowScorer) -> list[Verdict]:
    """The model's verdict on each window of one entity, in row order."""
    verdicts: list[Verdict] = []
    for begin in range(0, len(windows), 64):
        some = windows[begin : begin + 64]
        ends, values, masks, firsts, lasts, partitions = zip(*some, strict=True)
        batch = WindowBatch(
            schema, np.stack(values), np.stack(masks), (entity,) * len(some), np.array(ends), "metrics", np.array(partitions),
            np.array(firsts), np.array(lasts), ({},) * len(some),
        )  # fmt: skip
        verdicts += await detector.detect(batch)
    return verdicts


def near(verdict: Verdict, policy: EpisodeSettings) -> bool:
    """Whether rounding could decide this window."""
    if verdict.not_scored is not None:
        return False
    bounds = (
        verdict.surprise - verdict.level,
        verdict.score - 0.7,
        verdict.score - 0.9,
        math.log10(verdict.fresh_p / policy.fresh_p_below),
    )
    return any(abs(distance) < MARGIN for distance in bounds)


def severity(score: float) -> str:
    """The three severities' bounds."""
    return "critical" if score > 0.9 else "warning" if score > 0.7 else "info"


def strength_of(verdict: Verdict, onset: Verdict) -> float:
    """The score under the levels of the window at which the alert began: straight lines between them, and nearer to 1 beyond."""
    straight = float(np.interp(verdict.surprise, (0.0, onset.level, onset.warning, onset.critical), (0.0, 0.5, 0.7, 0.9)))
    return straight + 0.1 * -math.expm1(-max(verdict.surprise - onset.critical, 0.0) / 3)


def lies_behind(verdict: Verdict, row: float) -> bool:
    """Whether all rows of a window are newer than the one at which the last evidence ended, and a stride for good measure."""
    return 0 < verdict.window <= verdict.end_row - row - verdict.stride


def names_in(metrics: Sequence[MetricShare]) -> set[str]:
    """The metrics that a message names."""
    return {one.name for one in metrics if one.share >= 0.05}


def is_unusual(metric: MetricShare) -> bool:
    """Whether a metric lies four of its spreads or more from what is expected, where that is known."""
    known = metric.actual is not None and metric.expected is not None and metric.spread
    return not known or abs(metric.actual - metric.expected) >= 4 * metric.spread  # type: ignore[operator]  # known


def follow(entity: str, verdicts: Sequence[Verdict], policy: EpisodeSettings) -> list[tuple[str, int, str, str]]:
    """The transitions of one entity's alerts."""
    told: list[tuple[str, int, str, str]] = []
    now: Any = None
    shut: dict[str, float] | None = None  # an alert that is over while its rows still lie in the windows; row: of its last evidence

    def say(action: str) -> None:
        assert now is not None
        now["seq"] += 1
        told.append((now["id"], now["seq"], action, now["severity"]))

    for verdict in verdicts:
        if now is not None:
            silent = (verdict.end_row - now["last"]) * verdict.interval_ms
            if silent > max(policy.max_gap_seconds * 1000, 6 * verdict.stride * verdict.interval_ms):
                say("resolved")
                now = shut = None
        if verdict.not_scored is not None:
            continue
        fresh = verdict.fresh_p <= policy.fresh_p_below
        if now is None:
            strength = strength_of(verdict, verdict)
            if not verdict.is_anomaly:
                shut = None
                continue
            behind = shut is not None and lies_behind(verdict, shut["row"])
            evidence = fresh or behind
            if shut is not None and not (evidence and verdict.surprise > shut["above"]):
                continue
            first = verdict.end_row - verdict.stride + 1
            number = hashlib.sha256(f"{verdict.bundle}\0{first}\0{entity}".encode()).hexdigest()[:32]
            now = {
                "id": number, "seq": 0, "severity": severity(strength), "peak": severity(strength), "firing": False,
                "first": first, "last": verdict.end_row, "level": verdict.level, "onset": verdict, "highest": verdict.surprise,
                "recent": [evidence], "quiet": 0, "sustained": behind, "row": verdict.end_row, "metrics": verdict.metrics[:8],
                "told": set(), "also": [], "joining": set(), "widened": 0,
                "calm": 0, "calmest": 0.0, "age": 1, "update": 8, "swings": 0,
                "counted": verdict.end_row,
            }  # fmt: skip
            say("opened")
            if evidence and (now["severity"] == "critical" or policy.fire_after <= 1):
                now["firing"] = True
                now["told"] = names_in(now["metrics"])
                say("fired")
            continue
        strength = strength_of(verdict, now["onset"])
        level, above = severity(strength), verdict.surprise > now["level"]
        now["sustained"] |= above and lies_behind(verdict, now["row"])
        evidence = above and (fresh or now["sustained"])
        waits = above and not now["firing"]  # a pending alert whose windows stay anomalous is not quiet
        joining = now["joining"]
        new = [one for one in verdict.metrics if one.share >= 0.2 and one.name not in now["told"] and is_unusual(one)]
        if evidence:
            now["row"] = verdict.end_row
            if verdict.metrics and verdict.surprise >= now["highest"]:
                now["metrics"] = verdict.metrics[:8]
        below = strength < FLOOR[now["severity"]] - policy.severity_hysteresis
        now["last"], now["highest"] = verdict.end_row, max(now["highest"], verdict.surprise)
        # A window that shares fresh rows with the one counted last is counted only as evidence in the place of none.
        counts = verdict.end_row - now["counted"] >= verdict.stride
        if counts:
            now["recent"], now["age"] = (now["recent"] + [evidence])[-policy.fire_within :], now["age"] + 1
            now["quiet"] = 0 if evidence else now["quiet"] + (not waits)
            now["joining"] = {one.name for one in new} if evidence else set()
        if counts or (evidence and not now["recent"][-1]):
            now["counted"], now["recent"][-1] = verdict.end_row, evidence
            now["quiet"] = 0 if evidence else now["quiet"]
        now["calm"], now["calmest"] = (now["calm"] + counts, max(now["calmest"], strength)) if below else (0, 0.0)
        if evidence and not now["firing"] and RANK[level] > RANK[now["severity"]]:
            now["severity"] = now["peak"] = level
        if (verdict.end_row - now["first"] + 1) * verdict.interval_ms >= policy.max_episode_seconds * 1000:
            say("resolved")
            now, shut = None, {"above": now["highest"], "row": now["row"]}
        elif now["quiet"] >= policy.resolve_after_windows:
            say("resolved")
            now, shut = None, {"above": -1.0, "row": now["row"]} if verdict.is_anomaly else None
        elif not now["firing"]:
            if evidence and (now["severity"] == "critical" or sum(now["recent"]) >= policy.fire_after):
                now["firing"] = True
                now["told"] |= names_in(now["metrics"])
                say("fired")
        elif (
            evidence
            and RANK[level] > RANK[now["severity"]]
            and (now["swings"] < policy.max_severity_changes or RANK[level] > RANK[now["peak"]])
        ):
            now["severity"], now["peak"] = level, max(now["peak"], level, key=RANK.__getitem__)
            now["swings"], now["calm"], now["calmest"] = now["swings"] + 1, 0, 0.0
            say("raised")
        elif evidence and now["widened"] < 4 and (joined := [one for one in new if one.name in joining]):
            now["also"] += joined
            now["widened"], now["told"] = now["widened"] + 1, now["told"] | names_in(now["metrics"]) | names_in(now["also"])
            say("widened")
        elif (
            now["swings"] < policy.max_severity_changes
            and RANK[now["severity"]] > 0
            and now["calm"] >= policy.resolve_after_windows
        ):
            now["severity"] = severity(now["calmest"])
            now["swings"], now["calm"], now["calmest"] = now["swings"] + 1, 0, 0.0
            say("lowered")
        elif now["age"] >= now["update"]:
            now["update"] *= 2
            say("updated")
    return told
