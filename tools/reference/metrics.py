"""``docs/reference/metrics.md``: the metrics of ``service.observability.metrics``, as Prometheus sees them."""

from __future__ import annotations

from prometheus_client.metrics import MetricWrapperBase

from service.observability.metrics import Metrics
from tools.reference.markdown import code, head, sentence, table

OPENING = """What `tidewatch run` serves under `/metrics` on `http.host` and `http.port`, in Prometheus form; with `--workers N`
each worker has a port of its own. A counter starts at 0 when its process starts. A histogram has `_bucket`, `_sum` and `_count`."""


def page() -> str:
    """The whole page."""
    rows = []
    for one in vars(Metrics()).values():
        if not isinstance(one, MetricWrapperBase):
            continue
        (family,) = one.describe()
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = ", ".join(code(label) for label in one._labelnames)  # the client library has no public name for them
        rows.append((code(name), family.type, labels, sentence(family.documentation)))
    return "\n".join([*head("Metrics", OPENING), *table(("name", "type", "labels", "meaning"), sorted(rows))])
