"""The result of the detectors and of their ensemble for one window."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from service.domain.severity import Severity

MemberState = Literal["ok", "failed", "timeout", "untrained"]

# What one window in 10, 100 and 1,000 exceeds, where nothing has drifted since calibration.
AS_CALIBRATED = (1.0, 2.0, 3.0)


class MemberScore(msgspec.Struct, frozen=True, gc=False):
    """One detector's result for one window: raw score (higher is stranger) and tail probability, or why it gave none."""

    name: str
    raw: float | None
    p: float | None
    state: MemberState = "ok"
    reason: str = ""


class MetricShare(msgspec.Struct, frozen=True, gc=False):
    """One metric's part in an anomaly: ``share`` in [0, 1] of the attribution, the actual and the expected value.

    ``expected`` is the centre and ``spread`` one robust standard deviation, both in the metric's own unit.
    ``recent`` is the newest rows of the metric in the window, oldest first, for charts; NaN is sent as null.
    """

    name: str
    share: float
    actual: float | None
    expected: float | None
    spread: float | None = None
    recent: tuple[float | None, ...] = ()

    @property
    def deviation(self) -> float | None:
        """How far the actual value lies from the expected one, in robust standard deviations; ``None`` where that is not known."""
        if self.actual is None or self.expected is None or self.spread is None or not self.spread > 0:
            return None
        return abs(self.actual - self.expected) / self.spread


class Verdict(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The ensemble's result for one window.

    ``surprise``: -log10 of the ensemble's calibrated tail probability, before drift adjustment; ``level``: the surprise
    at which this entity would be called anomalous now (tracked online); ``warning`` and ``critical``: the surprises above which an
    anomaly is that severe. ``p`` is what is claimed, "one in N": it follows from ``exceeded``, the surprises that one of its
    windows in 10, 100 and 1,000 exceeds now, and is never below ``floor``, which falls as more windows are scored;
    ``calibrated_days``: the days of normal operation that it rests on. ``score`` in [0, 1] says how loud the window is
    (``service/loudness.py``): 0.5 at ``level``, 0.7 at ``warning``, 0.9 at ``critical``; the severity follows from it.
    ``is_onset``: an anomaly begins with this window; what the alert budget counts. ``window``: its length in rows.
    ``fresh_p``: tail probability of the newest ``stride`` rows taken by themselves (disjoint evidence).
    ``not_scored``: why the window has no score (low coverage, no detector); then every number above is neutral.
    """

    entity: str
    end_row: int
    timestamp: int
    stride: int
    window: int = 0
    not_scored: str | None = None
    surprise: float = 0.0
    level: float = 0.0
    warning: float = 0.0
    critical: float = 0.0
    exceeded: tuple[float, float, float] = AS_CALIBRATED
    p: float = 1.0
    floor: float = 0.0
    score: float = 0.0
    fresh_p: float = 1.0
    is_anomaly: bool = False
    is_onset: bool = False
    severity: Severity = Severity.INFO
    members: tuple[MemberScore, ...] = ()
    metrics: tuple[MetricShare, ...] = ()
    bundle: str = ""
    bundle_version: str = ""
    interval_ms: int = 1000
    model_trained_at: int = 0
    calibrated_days: float = 0.0
    labels: Mapping[str, str] = {}
    topic: str = ""
    partition: int = -1
    first_offset: int = -1
    last_offset: int = -1

    def __getitem__(self, name: str) -> Any:
        """A field by its name: ``verdict["is_anomaly"]``. Raises ``KeyError`` for a name that is none."""
        if name not in self.__struct_fields__:
            raise KeyError(name)
        return getattr(self, name)

    def __str__(self) -> str:
        """One line for people: when, which entity, how loud, and what makes it so."""
        when = datetime.fromtimestamp(self.timestamp / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        if self.not_scored is not None:
            return f"{when} {self.entity}: not scored, {self.not_scored}"
        if not self.is_anomaly:
            return f"{when} {self.entity}: usual, score {self.score:.2f}"
        causes = ", ".join(
            f"{metric.name} {metric.actual:.4g} instead of about {metric.expected:.4g}"
            for metric in self.metrics[:3]
            if metric.actual is not None and metric.expected is not None
        )
        return f"{when} {self.entity}: {self.severity}, score {self.score:.2f}" + (f": {causes}" if causes else "")
