"""Feeds hostile records among good ones through codec, windows and scoring, accounts for every record, and measures the cost."""

from __future__ import annotations

import itertools
import json
import math
import resource
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from service.app import CODECS, component, make_detector
from service.clock import ManualClock
from service.detectors.bundle import Bundle
from service.detectors.window_scorer import WindowScorer
from service.domain import Dataset, Record, Rejected, Schema, Series, WindowBatch
from service.runtime import settle_interpreter
from service.settings import DetectionSettings, StreamSettings, TrainingSettings
from service.sources.codecs.message import encode
from service.state.dead_letter import dead_letter
from service.stream.processor import StreamProcessor
from service.training.train import train
from tests.hostile.messages import NOW, hostile

METRICS = ("cpu", "mem", "io", *(f"m{at:02d}" for at in range(3, 38)))  # the first are those that hostile records name
ENTITIES = [f"good-{at}" for at in range(200)]
BATCH = 2000
GOOD = 2**40  # the first offset of a good record


@dataclass
class Report:
    """The account of one codec's records. Seconds are CPU seconds of this process."""

    codec: str
    share: float
    hostile: int = 0
    good: int = 0
    dead_letters: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    accepted: int = 0  # hostile ones that are good messages after all
    good_refused: int = 0
    lost: int = 0  # neither accepted nor refused, or both
    windows: int = 0
    windows_differ: int = 0
    seconds_alone: float = 0.0
    seconds_mixed: float = 0.0
    peak_rss_mb: float = 0.0

    @property
    def ratio(self) -> float:
        """Throughput of good records among hostile ones, relative to good ones alone, by CPU time."""
        return self.seconds_alone / self.seconds_mixed

    @property
    def hostile_us(self) -> float:
        """Microseconds of CPU a hostile record costs."""
        return (self.seconds_mixed - self.seconds_alone) / max(self.hostile, 1) * 1e6

    @property
    def good_us(self) -> float:
        """Microseconds of CPU a good record costs."""
        return self.seconds_alone / max(self.good, 1) * 1e6

    @property
    def adds_up(self) -> bool:
        """Every record is a sample or a dead letter, once, and the windows of good records are the same as without hostile ones."""
        settled = self.dead_letters + self.accepted == self.hostile
        return settled and not self.lost and not self.good_refused and not self.windows_differ and self.windows > 0


def schema(dims: int) -> Schema:
    """The first metrics."""
    return Schema(METRICS[:dims], 1000)


def trained(dims: int, *, quick: bool) -> Bundle:
    """The default ensemble (or one quick member), trained on the values of good records."""
    rows = np.array([_values(row, 0, dims) for row in range(3000)], np.float32)
    noise = np.random.default_rng(0).normal(0, 0.1, rows.shape).astype(np.float32)
    told = TrainingSettings(epochs=3, detectors={"mahalanobis": 1.0}) if quick else TrainingSettings(epochs=3)
    data = Dataset(schema(dims), [Series("past", 0, rows + noise)])
    return train(data, told, name="hostile", detectors=told.detectors, factory=make_detector)


class Path:
    """One codec, the windows behind it, and the detector behind those."""

    def __init__(self, codec: str, limits: StreamSettings, bundle: Bundle) -> None:
        self._schema = bundle.schema
        self._codec = component(CODECS, codec, "codec")(self._schema_of, limits)
        # The clock stands still, so that hostile timestamps in the future stay in the future.
        self._processor = StreamProcessor(
            self._schema, window=bundle.window, stride=bundle.stride, settings=limits, clock=ManualClock(NOW)
        )
        self._detector = WindowScorer(bundle, DetectionSettings())
        self.seconds = 0.0

    def _schema_of(self, entity: str) -> Schema | None:
        return self._schema if entity.startswith(("good-", "host-", "bad-")) else None

    async def feed(self, records: Sequence[Record]) -> tuple[list[int], list[Rejected], list[WindowBatch]]:
        """Offsets of the records that became samples, the rejected records, and the due windows."""
        began = time.process_time()
        samples, undecodable = self._codec.decode(records)
        due, unusable = self._processor.add(samples, {})
        rejected = [*undecodable, *unusable]
        for item in rejected:
            dead_letter(item)
        for windows in due:
            await self._detector.detect(windows)
        self.seconds += time.process_time() - began
        refused = {item.record.offset for item in unusable}
        return [offset for sample in samples if (offset := sample.record.offset) not in refused], rejected, due

    def close(self) -> None:
        """Stop the detector's threads."""
        self._detector.close()


def good_records(dims: int) -> Iterator[Record]:
    """Every entity's message of a row, then the next row; offsets that no hostile record has."""
    for number in itertools.count():
        row, at = divmod(number, len(ENTITIES))
        stamp, values = NOW + row * 1000, dict(zip(METRICS, _values(row, at, dims), strict=False))
        yield Record("metrics", 0, GOOD + number, stamp, ENTITIES[at].encode(), encode(ENTITIES[at], stamp, values))


def _values(row: int, at: int, dims: int) -> list[float]:
    return [round(math.sin(row / 7 + at + place), 3) for place in range(dims)]


async def run(codec: str, bundle: Bundle, *, seed: int, count: int, made: int, share: float, say: Any = print) -> Report:
    """Feed ``count`` hostile records, ``made`` of them from hypothesis, as a ``share`` of all; and the good ones also alone."""
    limits = StreamSettings(max_entities=5000)
    report = Report(codec, share)
    bad, good = hostile(seed, count, made, limits), good_records(bundle.schema.dims)
    alone, mixed = Path(codec, limits, bundle), Path(codec, limits, bundle)
    hostile_per_batch = max(1, round(BATCH * share))
    bad = itertools.chain([next(bad)], bad)  # so that hypothesis generates before the clock runs
    settle_interpreter()  # as the service does
    for number in itertools.count():
        harmful = list(itertools.islice(bad, hostile_per_batch))
        if not harmful:
            break
        harmless = list(itertools.islice(good, BATCH - hostile_per_batch))
        report.hostile += len(harmful)
        report.good += len(harmless)
        together = interleaved(harmless, harmful)
        if number % 2:  # alternate which goes first
            told, before = await mixed.feed(together), await alone.feed(harmless)
        else:
            before, told = await alone.feed(harmless), await mixed.feed(together)
        _settle(report, together, told, before[2])
        if number % 100 == 99:
            say(f"{codec}: {report.hostile:,} of {count:,} hostile records")
    alone.close()
    mixed.close()
    report.seconds_alone, report.seconds_mixed = alone.seconds, mixed.seconds
    report.peak_rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return report


def interleaved(some: Sequence[Record], others: Sequence[Record]) -> list[Record]:
    """Both sequences merged, each in its order and evenly spread."""
    placed = [((at + 0.5) / len(part), record) for part in (some, others) for at, record in enumerate(part)]
    return [record for _, record in sorted(placed, key=lambda item: item[0])]


def _settle(
    report: Report, records: Sequence[Record], told: tuple[list[int], list[Rejected], list[WindowBatch]], before: list[WindowBatch]
) -> None:
    taken, rejected, due = told
    report.dead_letters += sum(item.record.offset < GOOD for item in rejected)
    report.reasons.update(item.reason for item in rejected)
    report.good_refused += sum(item.record.offset >= GOOD for item in rejected)
    report.accepted += sum(offset < GOOD for offset in taken)
    seen = Counter(taken) + Counter(item.record.offset for item in rejected)
    report.lost += sum(seen[record.offset] != 1 for record in records)
    expected, found = _windows(before), _windows(due)
    report.windows += len(expected)
    report.windows_differ += sum(found.get(which) != values for which, values in expected.items())
    report.windows_differ += sum(which not in expected and which[0].startswith("good-") for which in found)


def _windows(due: Sequence[WindowBatch]) -> dict[tuple[str, int], bytes]:
    return {
        (entity, int(row)): batch.values[at].tobytes() + batch.mask[at].tobytes()
        for batch in due
        for at, (entity, row) in enumerate(zip(batch.entities, batch.end_rows, strict=True))
    }


def as_json(report: Report) -> str:
    """The report for a file."""
    told = {name: getattr(report, name) for name in report.__dataclass_fields__}
    more = {name: getattr(report, name) for name in ("ratio", "hostile_us", "good_us", "adds_up")}
    return json.dumps({**told, "reasons": dict(report.reasons), **more})
