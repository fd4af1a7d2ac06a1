"""What a message says beside the alert itself: who else, when last, what the receiver knows, whom to ask. ``notify`` gathers it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from service.domain import Severity

NEARBY_MS = 30 * 60_000  # alerts of other entities that began so close to each other are told together
NEIGHBOURS_SHOWN = 20


class Neighbour(msgspec.Struct, frozen=True):
    """Another entity with an open alert that began within ``NEARBY_MS`` of this one."""

    entity: str
    started_at: int
    severity: Severity
    top_metric: str
    labels: Mapping[str, str]


class Earlier(msgspec.Struct, frozen=True):
    """The nearest earlier alert of the same entity with the same leading metric, or else one that shares a metric.

    ``mark``: empty, ``false alarm`` or ``confirmed``. ``note`` and ``author``: what an operator said about it.
    """

    alert_id: str
    started_at: int
    ended_at: int | None
    reason: str
    note: str
    author: str
    severity: Severity
    mark: str


class Circumstances(msgspec.Struct, frozen=True, kw_only=True):
    """What is known around one alert when a message about it becomes due to one receiver.

    ``zone``: the time zone in which times are shown, with UTC beside it. ``now_ms``: when the message became due (0: the alert's
    ``updated_at``). ``neighbours``: first onset first, at most ``NEIGHBOURS_SHOWN`` of ``neighbours_total``. ``shared``: the label
    value that explains them best (``rack=r2: 3 of 3 hosts``; empty: none does). ``earlier``: the last time something like it
    happened (``None``: not known); ``earlier_count``: how often in the last 30 days. ``runbook`` and ``owner``:
    ``notifications.links``. ``repeat_after_s``: when this receiver is reminded if it goes on; ``resolve_after_s``: quiet time after
    which it is told as resolved (``None``: never). ``notified_severity``: what this receiver was last sent (``None``: nothing yet);
    ``changed``: since then it became more severe, or other metrics joined.
    ``units``: ``notifications.units``, as (glob of metric names, unit).
    """

    zone: str = "UTC"
    now_ms: int = 0
    neighbours: tuple[Neighbour, ...] = ()
    neighbours_total: int = 0
    shared: str = ""
    earlier: Earlier | None = None
    earlier_count: int = 0
    runbook: str = ""
    owner: str = ""
    repeat_after_s: float | None = None
    resolve_after_s: float | None = None
    notified_severity: Severity | None = None
    changed: bool = False
    is_reminder: bool = False
    units: tuple[tuple[str, str], ...] = ()


ByAlert = Mapping[str, Circumstances]  # by alert id; an alert that is not in it has ``PLAIN`` circumstances
PLAIN = Circumstances()
NOTHING_KNOWN: ByAlert = MappingProxyType({})
