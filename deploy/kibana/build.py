"""Writes tidewatch.ndjson, the saved objects that Kibana imports: python deploy/kibana/build.py

Panels are Vega-Lite. Each contains its query and aggregation as Elasticsearch gets them, so that a test can run them.
The index names are those of the default elasticsearch.index_prefix.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

OUT = Path(__file__).with_name("tidewatch.ndjson")
# With a star: before the first document there is no such index, and a pattern that matches none is no error.
ALERTS, EVENTS = "tidewatch-alerts*", "tidewatch-alert-events*"
AUDIT, NOTIFICATIONS = "tidewatch-audit*", "tidewatch-notifications*"
FIRED = {"exists": {"field": "tidewatch.fired_at"}}
SEVERITIES = {"domain": ["info", "warning", "critical"], "range": ["#6092c0", "#d6a400", "#bd271e"]}
VERSIONS = {"index-pattern": "8.0.0", "search": "8.0.0", "visualization": "8.5.0", "dashboard": "8.7.0"}


def saved(kind: str, name: str, attributes: dict[str, Any], references: list[dict[str, str]] | None = None) -> dict[str, Any]:
    return {
        "id": name,
        "type": kind,
        "attributes": attributes,
        "references": references or [],
        "coreMigrationVersion": "8.8.0",
        "typeMigrationVersion": VERSIONS[kind],
    }


def data_view(name: str, pattern: str, title: str) -> dict[str, Any]:
    return saved("index-pattern", name, {"title": pattern, "name": title, "timeFieldName": "@timestamp"})


def search(name: str, view: str, title: str, query: str, columns: list[str]) -> dict[str, Any]:
    source = {"query": {"language": "kuery", "query": query}, "filter": [], "indexRefName": "view"}
    attributes = {
        "title": title,
        "columns": columns,
        "sort": [["@timestamp", "desc"]],
        "kibanaSavedObjectMeta": {"searchSourceJSON": json.dumps(source)},
    }
    return saved("search", name, attributes, [{"name": "view", "type": "index-pattern", "id": view}])


def panel(name: str, title: str, index: str, filters: list[Any], aggregations: dict[str, Any], drawing: dict[str, Any]) -> Any:
    """``drawing``: mark and encoding; the one aggregation is called ``rows`` and its buckets are the data."""
    query = {
        "bool": {
            "must": ["%dashboard_context-must_clause%", {"range": {"@timestamp": {"%timefilter%": True}}}],
            "filter": ["%dashboard_context-filter_clause%", *filters],
            "must_not": ["%dashboard_context-must_not_clause%"],
        }
    }
    body = {"size": 0, "query": query, "aggs": {"rows": aggregations}}
    spec = {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "data": {"url": {"index": index, "body": body}, "format": {"property": "aggregations.rows.buckets"}},
        **drawing,
    }
    state = {"title": title, "type": "vega", "aggs": [], "params": {"spec": json.dumps(spec, indent=2)}}
    attributes = {
        "title": title,
        "visState": json.dumps(state),
        "uiStateJSON": "{}",
        "kibanaSavedObjectMeta": {"searchSourceJSON": "{}"},
    }
    return saved("visualization", name, attributes)


def over_time(field: str) -> dict[str, Any]:
    time = {"date_histogram": {"field": "@timestamp", "fixed_interval": {"%autointerval%": True}}}
    return {"composite": {"size": 10_000, "sources": [{"time": time}, {"kind": {"terms": {"field": field}}}]}}


def stacked(title: str, colours: dict[str, Any]) -> dict[str, Any]:
    return {
        "mark": "bar",
        "encoding": {
            "x": {"field": "key.time", "type": "temporal", "title": None},
            "y": {"field": "doc_count", "type": "quantitative", "aggregate": "sum", "title": title},
            "color": {"field": "key.kind", "type": "nominal", "title": None, "scale": colours},
        },
    }


def ranked(field: str) -> dict[str, Any]:
    return {"terms": {"field": field, "size": 10}}


def bars(title: str) -> dict[str, Any]:
    return {
        "mark": "bar",
        "encoding": {
            "y": {"field": "key", "type": "nominal", "sort": "-x", "title": None},
            "x": {"field": "doc_count", "type": "quantitative", "title": title},
        },
    }


PANELS = [
    panel(
        "tidewatch-over-time",
        "Alerts over time by severity",
        ALERTS,
        [FIRED],
        over_time("tidewatch.peak_severity"),
        stacked("alerts", SEVERITIES),
    ),
    panel("tidewatch-noisiest", "Noisiest entities", ALERTS, [FIRED], ranked("tidewatch.entity"), bars("alerts")),
    panel("tidewatch-metrics", "Top metrics", ALERTS, [FIRED], ranked("tidewatch.top_metric"), bars("alerts")),
    panel(
        "tidewatch-resolve",
        "Time to resolve (median, minutes)",
        ALERTS,
        [FIRED, {"term": {"tidewatch.status": "resolved"}}],
        {
            "terms": {"field": "tidewatch.peak_severity"},
            "aggs": {"took": {"percentiles": {"field": "event.duration", "percents": [50], "keyed": False}}},
        },
        {
            "transform": [{"calculate": "datum.took.values[0].value / 6e10", "as": "minutes"}],
            "mark": "bar",
            "encoding": {
                "y": {"field": "key", "type": "nominal", "title": None},
                "x": {"field": "minutes", "type": "quantitative", "title": "minutes"},
                "color": {"field": "key", "type": "nominal", "legend": None, "scale": SEVERITIES},
            },
        },
    ),
    panel(
        "tidewatch-outcomes",
        "Notification outcomes",
        NOTIFICATIONS,
        [],
        over_time("tidewatch.state"),
        stacked(
            "messages",
            {"domain": ["sent", "owed", "refused", "gave_up"], "range": ["#54b399", "#d6a400", "#aa6556", "#bd271e"]},
        ),
    ),
    panel(
        "tidewatch-marks",
        "Alerts marked true or false",
        AUDIT,
        [{"terms": {"event.action": ["marked-false", "marked-true", "mark-withdrawn"]}}],
        over_time("event.action"),
        stacked("marks", {"domain": ["marked-false", "marked-true", "mark-withdrawn"], "range": ["#bd271e", "#54b399", "#98a2b3"]}),
    ),
]
PLACES = [(0, 0, 48, 12), (0, 12, 16, 14), (16, 12, 16, 14), (32, 12, 16, 14), (0, 26, 24, 10), (24, 26, 24, 10)]


def dashboard() -> dict[str, Any]:
    panels, references = [], []
    for number, (one, (x, y, w, h)) in enumerate(zip(PANELS, PLACES, strict=True)):
        place = {"x": x, "y": y, "w": w, "h": h, "i": str(number)}
        name = f"panel_{number}"
        panels.append(
            {"type": "visualization", "panelIndex": str(number), "gridData": place, "embeddableConfig": {}, "panelRefName": name}
        )
        references.append({"name": f"{number}:{name}", "type": "visualization", "id": one["id"]})
    attributes = {
        "title": "Tidewatch",
        "description": "Alerts, what caused them, how long they took, which messages were sent, and how operators marked them.",
        "panelsJSON": json.dumps(panels),
        "optionsJSON": json.dumps({"useMargins": True}),
        "timeRestore": False,
        "kibanaSavedObjectMeta": {"searchSourceJSON": json.dumps({"query": {"language": "kuery", "query": ""}, "filter": []})},
    }
    return saved("dashboard", "tidewatch", attributes, references)


OBJECTS = [  # ids stay although titles change: an import then replaces the object of before
    data_view("tidewatch-alerts", ALERTS, "Tidewatch alerts"),
    data_view("tidewatch-alert-events", EVENTS, "Tidewatch alert events"),
    data_view("tidewatch-notifications", NOTIFICATIONS, "Tidewatch notifications"),
    data_view("tidewatch-words", AUDIT, "Tidewatch audit log"),
    search(
        "tidewatch-firing",
        "tidewatch-alerts",
        "Tidewatch: firing now",
        "tidewatch.status: firing",
        ["message", "tidewatch.severity", "tidewatch.entity", "tidewatch.acknowledged_by"],
    ),
    search(
        "tidewatch-muted",
        "tidewatch-alerts",
        "Tidewatch: muted, and why",
        "tidewatch.muted_by: *",
        ["message", "tidewatch.muted_by"],
    ),
    search(
        "tidewatch-transitions",
        "tidewatch-alert-events",
        "Tidewatch: transitions",
        "event.dataset: tidewatch.alert-events",
        ["event.action", "event.reason", "tidewatch.entity", "tidewatch.severity"],
    ),
    search(
        "tidewatch-untold",
        "tidewatch-notifications",
        "Tidewatch: messages that did not arrive",
        "not tidewatch.state: sent",
        ["message", "tidewatch.receiver", "tidewatch.state", "tidewatch.attempts", "tidewatch.problem"],
    ),
    search("tidewatch-said", "tidewatch-words", "Tidewatch: operators' commands", "", ["message", "user.name", "tidewatch.note"]),
    *PANELS,
    dashboard(),
]


def main() -> None:
    """One object a line."""
    OUT.write_text("".join(json.dumps(each) + "\n" for each in OBJECTS), encoding="utf-8")


if __name__ == "__main__":
    main()
