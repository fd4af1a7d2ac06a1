"""A single metric that has just departed from its past and from its correlated metrics: its change within half a window.

A distance over all metrics adds up what forty of them do. One metric that stands still, or no longer moves with the others, hardly
changes it, least of all in drifting data, where some metric is always unusual. So every metric is compared with itself: its part of
the squared distance (``features/attribution.py``), in units of what that part reaches once in a hundred normal windows, divided by
one plus the same half a window earlier. A metric that has been unusual for long therefore does not count. The score is the largest
over the metrics.

Alone it ranks long anomalies poorly, because it reports only their beginning. With ``overrides_by_decades`` in the ensemble it
finds planted faults of single metrics that the other detectors miss (decision 0004).
"""

from __future__ import annotations

import numpy as np

from service.detectors.features.attribution import Attribution
from service.detectors.features.windows import Features
from service.detectors.members.metricwise import MetricwiseDetector
from service.domain import F64
from service.progress import Progress, silent

SPAN = 25


class DepartureDetector(MetricwiseDetector):
    """Logarithm of one plus the largest departure: ``MetricwiseDetector``'s parts, divided by one plus those half a window earlier.

    Options: ``held_out_share``: the newest share of each training series, from which the usual size of each part is learned;
    ``span``: over how many newest rows the mean and the log range of a metric are taken, in addition to its newest value; at most
    half a window.

    Example: ``training: {detectors: {departure: {overrides_by_decades: 1.0}}}``
    """

    default_name = "departure"

    def __init__(self, *, name: str | None = None, held_out_share: float = 0.2, span: int = SPAN) -> None:
        super().__init__(name=name, held_out_share=held_out_share)
        self.span = span

    def fit(self, features: Features, *, progress: Progress = silent) -> None:
        """Learn the metrics' covariance, and each one's usual part. Raises ``NotEnoughData`` under 64 windows."""
        # Half a window earlier the same statistics are computed from what is left of the window.
        self._attribution = Attribution((min(self.span, max(features.window - _half(features), 1)),))
        super().fit(features, progress=progress)

    def score(self, features: Features) -> F64:
        """Float64 (n,): the logarithm of one plus the largest departure."""
        scores: F64 = np.log1p(self.attribute(features).max(axis=1))
        return scores

    def attribute(self, features: Features) -> F64:
        """Float64 (n, dims): each metric's part in units of its usual one, over one plus the same half a window earlier."""
        now = super().attribute(features)
        if not _half(features):
            return now
        before = super().attribute(features.earlier(_half(features)))
        departures: F64 = now / (1.0 + before)
        return departures


def _half(features: Features) -> int:
    return features.window // 2
