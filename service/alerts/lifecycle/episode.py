"""The state of one entity's alert, as it is kept between two windows and written to ``tidewatch.state``.

Fields that were renamed keep the name under which they are stored.
"""

from __future__ import annotations

import msgspec

from service.domain import AS_CALIBRATED, Alert, Severity

FIRST_UPDATE = 8  # windows; further "updated" transitions at twice the age of the one before, so their number is logarithmic


class Episode(msgspec.Struct, frozen=True, kw_only=True):
    """One open alert and the state that its next transitions depend on. Rows are grid rows of ``interval_ms``.

    ``level``: the surprise to exceed, ``warning`` and ``critical``: those of the severities; scores follow from the three, "one in
    N" from ``exceeded`` (``Verdict``; as calibrated where it was stored before there was any); all are frozen at onset. ``named``:
    the metrics that were told; ``joining``: those that led the newest window that counts besides; ``widened``: how often others
    joined.
    ``counted_row``: the end of the newest window that counts. Of the windows that count: ``evidence`` has one bit for each, newest
    lowest; ``quiet`` is the number without evidence in a row; ``age`` is the number of all. ``below_windows``: those in a row whose
    score lay below the current severity's bound less the hysteresis; ``below_score``: the highest score among them. ``sustained``:
    the evidence came from windows that lie wholly behind the last unusual rows; anomalous windows are then evidence by themselves.
    """

    alert: Alert
    interval_ms: int
    first_row: int
    last_row: int
    evidence_row: int
    counted_row: int = -1
    level: float
    warning: float = 0.0
    critical: float = 0.0
    exceeded: tuple[float, float, float] = AS_CALIBRATED
    peak_surprise: float
    evidence: int = 1
    quiet: int = 0
    sustained: bool = False
    below_windows: int = msgspec.field(default=0, name="calm")
    below_score: float = msgspec.field(default=0.0, name="calm_score")
    age: int = 1
    next_update: int = FIRST_UPDATE
    severity_changes: int = 0
    named: tuple[str, ...] = ()
    joining: tuple[str, ...] = ()
    widened: int = 0


class ClosedEpisode(msgspec.Struct, frozen=True, kw_only=True):
    """An alert that is over while its rows still lie in the windows. Dropped at the first window that is not anomalous.

    Until then, a window opens a new alert only if its newest rows are unusual by themselves, or all of its rows are newer than
    ``until_row``, the row of the last evidence. After an alert that was accepted as
    the new normal, its surprise must also exceed ``accepted``, the peak surprise of that alert.
    """

    accepted: float | None = None
    until_row: int | None = None


class EpisodeState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What must survive a restart for one entity. ``seen_until``: the end of the newest window observed (ms)."""

    seen_until: int
    episode: Episode | None = None
    closed: ClosedEpisode | None = None


class EpisodePhase(msgspec.Struct, frozen=True, gc=False):
    """Where one entity is: in an open episode, just after one, or in neither."""

    episode: Episode | None = None
    closed: ClosedEpisode | None = None


class Assessment(msgspec.Struct, frozen=True, gc=False):
    """One window judged by the level of an episode: its score, p and severity. ``actionable``: anomalous, and at least of
    ``min_severity``; ``sustained``: actionable, and all of its rows are newer than the last evidence; ``evidence``: actionable,
    and its newest rows are unusual by themselves or it is sustained."""

    score: float
    p: float
    severity: Severity
    actionable: bool
    evidence: bool
    sustained: bool = False
