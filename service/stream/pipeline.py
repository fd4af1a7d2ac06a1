"""Two cores for one batch: while one piece is scored in threads, the next is decoded and slid in another.

Pieces keep the records' order, and each is scored after the one before, so verdicts are those of the batch taken whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from service.domain import Record, Rejected, Verdict, WindowBatch
from service.sources.base import Codec
from service.stream.models import Model, Models

Due = list[tuple[Model, WindowBatch]]
Result = TypeVar("Result")

# Records in a piece: enough windows to score together, few enough that the pieces of a full batch overlap.
PIECE = 5000


class Pipeline:
    """Decodes and slides in a thread of its own, so that the event loop is free for heartbeats whatever a batch holds.

    ``detect`` scores what came due; it is never called again before its last call returned.
    """

    def __init__(self, codec: Codec, models: Models, detect: Callable[[Due], Awaitable[list[Verdict]]]) -> None:
        self._codec = codec
        self._models = models
        self._detect = detect
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="decode")

    async def score(self, records: Sequence[Record], resume_at: Mapping[int, int]) -> tuple[list[Verdict], list[Rejected]]:
        """The verdicts on every window these records make due, and the records refused. Raises what ``detect`` raises."""
        verdicts: list[Verdict] = []
        rejected: list[Rejected] = []
        scoring: asyncio.Future[list[Verdict]] | None = None
        loop = asyncio.get_running_loop()
        try:
            for begin in range(0, len(records), PIECE):
                piece = records[begin : begin + PIECE]
                due, refused = await loop.run_in_executor(self._thread, self._slide, piece, resume_at)
                rejected += refused
                if scoring is not None:
                    verdicts += await scoring
                scoring = asyncio.ensure_future(self._detect(due)) if due else None
            if scoring is not None:
                verdicts += await scoring
        finally:
            if scoring is not None:
                scoring.cancel()
        return verdicts, rejected

    def close(self) -> None:
        """Let the thread go."""
        self._thread.shutdown(wait=False)

    def _slide(self, records: Sequence[Record], resume_at: Mapping[int, int]) -> tuple[Due, list[Rejected]]:
        samples, rejected = self._codec.decode(records)
        due: Due = []
        for model, part in self._models.split(samples):
            windows, refused = model.processor.add(part, resume_at)
            due += [(model, window) for window in windows]
            rejected += refused
        return due, rejected
