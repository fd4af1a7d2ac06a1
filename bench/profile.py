"""Where the hot path spends its time: ``make profile`` writes a flame graph to ``bench/results/profile.svg``.

Decode, slide, score and follow episodes in this process, without Kafka, while a thread samples the stack of every other
thread about a hundred times a second. Compiled kernels show as the Python function that called them; waiting threads are left out.
"""

from __future__ import annotations

import argparse
import asyncio
import html
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType

import uvloop

from bench.workload import START_ROW, WINDOW, Workload
from service.alerts.lifecycle.episodes import Episodes
from service.app import build_model, make_detector
from service.domain import Record
from service.settings import Settings
from service.sources.base import RecordBatch
from service.sources.codecs.native import NativeCodec
from service.stream.intake import Intake
from service.stream.models import Models
from service.training.train import train

Stack = tuple[str, ...]

SECONDS_BETWEEN = 0.003
BATCH = 10_000
WIDTH, LINE = 1200.0, 18
WAITING = ("threading.py", "selectors.py", "queue.py", "thread.py:_worker", "runners.py", "uvloop")
COLOURS = ("#e76f51", "#f4a261", "#e9c46a", "#e9b872", "#d98c5f")


class Sampler(threading.Thread):
    """Counts the stacks of all other threads until stopped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.stacks: Counter[Stack] = Counter()
        self.done = threading.Event()

    def run(self) -> None:
        """Sample, count, sleep."""
        while not self.done.wait(SECONDS_BETWEEN):
            for thread, frame in sys._current_frames().items():
                if thread != self.ident:
                    stack = _stack(frame)
                    if stack and not any(word in stack[-1] for word in WAITING):
                        self.stacks[stack] += 1


def _stack(frame: FrameType | None) -> Stack:
    names: list[str] = []
    while frame is not None:
        names.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_name}")
        frame = frame.f_back
    return tuple(reversed(names))


def flame_graph(stacks: Counter[Stack]) -> str:
    """An SVG: a box's width is its share of the samples, what it called stands above it; hover for the numbers."""
    total, depth = sum(stacks.values()), max((len(stack) for stack in stacks), default=1)
    height = (depth + 2) * LINE
    boxes: list[str] = []

    def draw(parts: list[tuple[Stack, int]], level: int, left: float) -> None:
        groups: dict[str, list[tuple[Stack, int]]] = {}
        for stack, count in sorted(parts):
            if len(stack) > level:
                groups.setdefault(stack[level], []).append((stack, count))
        for name, own in groups.items():
            count = sum(one for _, one in own)
            width = WIDTH * count / total
            if width >= 1:
                boxes.append(_box(name, count / total, left, height - (level + 2) * LINE, width))
                draw(own, level + 1, left)
            left += width

    draw(list(stacks.items()), 0, 0.0)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH:.0f}" height="{height}" font-family="monospace" font-size="11">'
    return "\n".join([head, *boxes, "</svg>"])


def _box(name: str, share: float, left: float, top: float, width: float) -> str:
    text = html.escape(name[: int(width / 7)]) if width > 20 else ""
    colour = COLOURS[sum(name.encode()) % len(COLOURS)]
    return (
        f'<g><title>{html.escape(name)} {share:.1%}</title><rect x="{left:.1f}" y="{top:.0f}" width="{width:.1f}"'
        f' height="{LINE - 1}" fill="{colour}"/><text x="{left + 2:.1f}" y="{top + 12:.0f}">{text}</text></g>'
    )


def _records(workload: Workload, first_row: int, rows: int) -> list[Record]:
    begin, stamp = first_row * workload.entities, (START_ROW + first_row + rows) * 1000
    messages = enumerate(workload.messages(first_row, rows))
    return [Record("metrics", 0, begin + at, stamp, one.entity.encode(), one.value) for at, one in messages]


async def _work(intake: Intake, episodes: Episodes, records: list[Record]) -> None:
    for begin in range(0, len(records), BATCH):
        result = await intake.process(RecordBatch(records[begin : begin + BATCH], {0: 0}))
        for model, windows in result.due:
            episodes.observe(await model.detector.detect(windows))
        await asyncio.sleep(0)


def main() -> None:
    """Train, fill the windows, then sample."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entities", type=int, default=1000)
    parser.add_argument("--stride", type=int, default=10)
    parser.add_argument("--rows", type=int, default=100, help="rows of each entity while sampling")
    parser.add_argument("--epochs", type=int, default=5, help="of training; the speed does not depend on them")
    parser.add_argument("--out", type=Path, default=Path("bench/results/profile.svg"))
    told = parser.parse_args()
    workload = Workload(told.entities, 38, told.stride)
    settings = Settings.model_validate({"training": {"stride": told.stride, "epochs": told.epochs}})
    training = settings.training
    bundle = train(workload.dataset(), training, name="profile", detectors=training.detectors, factory=make_detector)
    models = Models([("*", build_model(bundle, settings))])
    intake, episodes = Intake(NativeCodec(models.schema_of, settings.stream), models), Episodes(settings.alerts)
    uvloop.run(_work(intake, episodes, _records(workload, 0, WINDOW)))
    records = _records(workload, WINDOW, told.rows)
    sampler, began, cpu = Sampler(), time.perf_counter(), time.process_time()
    sampler.start()
    uvloop.run(_work(intake, episodes, records))
    sampler.done.set()
    spent, cpu = time.perf_counter() - began, time.process_time() - cpu
    told.out.parent.mkdir(parents=True, exist_ok=True)
    told.out.write_text(flame_graph(sampler.stacks))
    print(f"{len(records):,} samples: {spent / len(records) * 1e6:.1f} µs each, {cpu / len(records) * 1e6:.1f} µs of CPU.")
    print(f"Saved {told.out}.")


if __name__ == "__main__":
    main()
