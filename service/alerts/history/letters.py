"""Documents that were set aside, as dead letters: where each belongs stands in a header, so that it can be written back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from service.alerts.history.elasticsearch_client import Operation
from service.domain import Record

DOCUMENT_REFUSED = "document-refused"
_TARGET = "document-target"


class _Target(msgspec.Struct, frozen=True):
    index: str
    id: str
    version: int


def target(action: Mapping[str, Any]) -> tuple[tuple[str, bytes], ...]:
    """The headers that say where the document of this bulk action belongs."""
    at = action["index"]
    return ((_TARGET, msgspec.json.encode(_Target(at["_index"], at["_id"], at["version"]))),)


def operation_of(record: Record) -> Operation | None:
    """The operation that stores the document of this letter; ``None`` when the letter does not say where it belongs."""
    try:
        at = msgspec.json.decode(dict(record.headers).get(_TARGET) or b"", type=_Target)
        document = msgspec.json.decode(record.value or b"", type=dict[str, Any])
    except msgspec.DecodeError:
        return None
    return {"index": {"_index": at.index, "_id": at.id, "version": at.version, "version_type": "external"}}, document
