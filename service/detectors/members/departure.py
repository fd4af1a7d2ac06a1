"""The one metric that has just left its past and its company: how much stranger it is than half a window ago.

A distance over all metrics counts what forty of them do together; one metric that stands still, or no longer moves with
the others, hardly moves it, least of all in drifting data, where something or other is always off. So every metric is
compared with itself: its part (``explain.py``: what letting it free takes off the squared distance), in units of what that
reaches once in a hundred normal windows, over one plus its part half a window earlier. What has been off for long does not
count. The largest over the metrics is the score.

By itself it ranks long anomalies poorly, for they are news only once; beside the others (``Ensemble``) it makes the
ensemble see planted faults of single metrics that it would have missed (decision 0004).
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
    """Logarithm of one plus the largest departure: ``MetricwiseDetector``'s parts, over what they were half a window before."""

    default_name = "departure"

    def __init__(self, *, name: str | None = None, held_out_share: float = 0.2, span: int = SPAN) -> None:
        """``span``: rows whose mean and range tell of a metric, beside its newest value; at most half a window."""
        super().__init__(name=name, held_out_share=held_out_share)
        self.span = span

    def fit(self, features: Features, *, progress: Progress = silent) -> None:
        """Learn the company each metric keeps, and its usual part. Raises ``NotEnoughData`` under 64 windows."""
        # The same statistics must be had half a window earlier, from what is left of the window there.
        self._explainer = Attribution((min(self.span, max(features.window - _back(features), 1)),))
        super().fit(features, progress=progress)

    def score(self, features: Features) -> F64:
        """Float64 (n,): the logarithm of one plus the largest departure."""
        scores: F64 = np.log1p(self.attribute(features).max(axis=1))
        return scores

    def attribute(self, features: Features) -> F64:
        """Float64 (n, dims): each metric's part in units of its usual one, over one plus what it was half a window earlier."""
        now = super().attribute(features)
        if not _back(features):
            return now
        before = super().attribute(features.earlier(_back(features)))
        departures: F64 = now / (1.0 + before)
        return departures


def _back(features: Features) -> int:
    return features.window // 2
