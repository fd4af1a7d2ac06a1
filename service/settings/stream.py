"""Which bundle serves which entities, and the limits of their windows in time and memory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from service.settings.base import Positive, Seconds, Section, Share


class ModelRule(Section):
    """Which bundle serves which entities; the first rule whose glob matches wins."""

    match: str = "*"
    bundle: Path


class StreamSettings(Section):
    """Limits of the sliding windows in time and memory. The grid interval, window and stride come from the bundle."""

    allowed_lateness_seconds: Annotated[float, Field(ge=0)] = 0.0
    max_gap_rows: Annotated[int, Field(ge=0)] = 5
    min_coverage: Share = 0.5
    max_ahead_seconds: Seconds = 300.0
    max_message_bytes: Positive = 1_000_000
    max_labels: Positive = 32
    max_entities: Positive = 100_000
    idle_after_seconds: Seconds = 3600.0
    max_batch_records: Positive = 10_000
    max_delay_ms: Positive = 20  # upper bound on how long buffered records wait for newer ones before a batch starts
    max_rewind_records: Positive = 2_000_000
    start_from: Literal["earliest", "latest"] = "earliest"  # where a consumer group without commits begins
