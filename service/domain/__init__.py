"""The values that travel down the path of a sample. All are frozen: a stage replaces a value, it never mutates one.

Units: times are integer milliseconds since the Unix epoch (event time unless the name says otherwise); rows are
``floor(event time / interval)``; ``p`` is a tail probability (smaller is stranger); ``surprise`` is ``-log10 p``.
``gc=False``: made by the thousand and never part of a reference cycle, so the garbage collector need not track it.
"""

from __future__ import annotations

from service.domain.alert import Action, Alert, Status, alert_id
from service.domain.arrays import F32, F64, I64, Mask
from service.domain.dataset import Dataset, Series
from service.domain.health import DataSnapshot, HealthItem, HealthItems, HealthReport, TrainedModel
from service.domain.samples import Record, Rejected, Sample, Samples, Schema
from service.domain.severity import Severity, SeverityBounds
from service.domain.verdict import AS_CALIBRATED, MemberScore, MemberState, MetricShare, Verdict
from service.domain.windows import WindowBatch, phase_of

__all__ = [
    "AS_CALIBRATED",
    "F32",
    "F64",
    "I64",
    "Action",
    "Alert",
    "DataSnapshot",
    "Dataset",
    "HealthItem",
    "HealthItems",
    "HealthReport",
    "Mask",
    "MemberScore",
    "MemberState",
    "MetricShare",
    "Record",
    "Rejected",
    "Sample",
    "Samples",
    "Schema",
    "Series",
    "Severity",
    "SeverityBounds",
    "Status",
    "TrainedModel",
    "Verdict",
    "WindowBatch",
    "alert_id",
    "phase_of",
]
