"""What Tidewatch measures about itself, in Prometheus form. Every metric is changed in exactly one place in the code.

Metrics belong to an instance, not to the module, so that tests and the library form do not share counts.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from service.verdicts import Verdicts

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# Fine around 50 ms, the longest that our code may hold the loop.
_LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.25, 0.5, 1.0, 5.0)

# Of the process: Kafka clients are made in many places, and none of them knows an instance of Metrics.
UNREADABLE = Counter(
    "tidewatch_records_unreadable", "Records stepped over because the Kafka client cannot read them.", ["topic"], registry=None
)


class Metrics:
    """All of Tidewatch's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.unreadable = UNREADABLE
        r.register(self.unreadable)
        self.consumed = Counter("tidewatch_records_consumed", "Records read from the metrics topic.", registry=r)
        self.dead_letters = Counter(
            "tidewatch_records_dead_lettered", "Records and documents written to the dead-letter topic.", ["reason"], registry=r
        )
        self.skipped = Counter(
            "tidewatch_samples_skipped", "Valid samples not used, by reason (late, duplicate).", ["reason"], registry=r
        )
        self.scored = Counter("tidewatch_windows_scored", "Windows given a score.", ["bundle"], registry=r)
        self.not_scored = Counter("tidewatch_windows_not_scored", "Due windows without a score, by reason.", ["reason"], registry=r)
        self.anomalies = Counter("tidewatch_anomalous_windows", "Windows found anomalous.", ["severity"], registry=r)
        self.member_failures = Counter(
            "tidewatch_detector_failures", "Windows for which a detector gave no score.", ["detector", "state"], registry=r
        )
        self.transitions = Counter("tidewatch_alert_transitions", "Alert transitions emitted.", ["action"], registry=r)
        self.stored = Counter("tidewatch_alert_transitions_stored", "Alert transitions written to the store.", registry=r)
        self.store_retries = Counter("tidewatch_store_retries", "Writes to the store that are tried again later.", registry=r)
        self.notifications = Counter(
            "tidewatch_notifications",
            "By receiver: messages due, sent, refused, gave_up, handed_over; tries that failed (retried); alerts muted, dropped.",
            ["receiver", "outcome"],
            registry=r,
        )
        self.unsettled = Gauge(
            "tidewatch_notifications_unsettled", "Messages due that are neither sent nor given up.", ["receiver"], registry=r
        )
        self.lag = Gauge("tidewatch_consumer_lag_records", "Records not yet read, by partition.", ["partition"], registry=r)
        self.entities = Gauge("tidewatch_entities", "Entities whose windows are kept.", registry=r)
        self.entities_limit = Gauge(
            "tidewatch_entities_limit", "The most entities that are kept; further new ones are dead-lettered.", registry=r
        )
        self.entities_forgotten = Counter(
            "tidewatch_entities_forgotten", "Entities dropped because they sent nothing for stream.idle_after_seconds.", registry=r
        )
        self.scoring_seconds = Histogram(
            "tidewatch_scoring_seconds", "Time to score one batch of due windows.", buckets=_SECONDS, registry=r
        )
        self.loop_lag = Histogram(
            "tidewatch_event_loop_lag_seconds",
            "How late the event loop ran a task that was due, measured a hundred times a second.",
            buckets=_LAG_SECONDS,
            registry=r,
        )

    def count_dead_letters(self, reasons: Iterable[str]) -> None:
        """Count what the dead-letter topic holds now, one reason a letter; called when the write was confirmed."""
        for reason, count in collections.Counter(reasons).items():
            self.dead_letters.labels(reason).inc(count)

    def count_windows(self, bundle: str, verdicts: Verdicts) -> None:
        """Count one batch of a bundle: windows scored and not, anomalies, and windows for which a detector had no score."""
        scored = within_level = sum(verdicts.within_level)
        failed = collections.Counter(
            {(member.name, member.state): within_level for member in verdicts.without_score if within_level}
        )
        for verdict in verdicts.notable():
            failed.update((member.name, member.state) for member in verdict.members if member.state != "ok")
            if verdict.not_scored is not None:
                self.not_scored.labels("no-detector" if verdict.members else "low-coverage").inc()
                continue
            scored += 1
            if verdict.is_anomaly:
                self.anomalies.labels(verdict.severity).inc()
        if scored:
            self.scored.labels(bundle).inc(scored)
        for named, count in failed.items():
            self.member_failures.labels(*named).inc(count)

    def exposition(self) -> bytes:
        """The metrics in Prometheus text format."""
        return generate_latest(self.registry)
