"""Which bundle serves which entities, and the time and memory of their windows."""

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
    """Time and memory of the sliding windows (the grid interval, window and stride are the bundle's own)."""

    allowed_lateness_seconds: Annotated[float, Field(ge=0)] = 0.0
    max_gap_rows: Annotated[int, Field(ge=0)] = 5
    min_coverage: Share = 0.5
    max_ahead_seconds: Seconds = 300.0
    max_message_bytes: Positive = 1_000_000
    max_labels: Positive = 32
    max_entities: Positive = 100_000
    idle_after_seconds: Seconds = 3600.0
    max_batch_records: Positive = 10_000
    max_delay_ms: Positive = 20  # what waited for the last batch waits so long, at most, for newer to join it
    max_rewind_records: Positive = 2_000_000
    start_from: Literal["earliest", "latest"] = "earliest"  # where a group that never committed begins
