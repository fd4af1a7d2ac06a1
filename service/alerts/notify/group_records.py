"""How groups lie in ``tidewatch.notify-state``: one record for each group, one for each alert in it; only changes are written.

The keys are JSON: ``[group]`` and ``[group, alert id]``. Groups are immutable values: what is the same object has not changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from service.alerts.notify.grouping import Entry, Found, Group
from service.alerts.notify.numbered_routes import text_of
from service.errors import Stop


class _GroupRecord(Group, frozen=True, kw_only=True):
    """A group without its entries. ``pending_ids``: the alerts in the pending message, in its order. ``route``: a number in the
    records of versions before 0.1.0."""

    route: int | str  # type: ignore[assignment]  # only here; ``_whole`` makes it text
    pending_ids: list[str] = msgspec.field(default_factory=list, name="owed_names")


class _EntryRecord(msgspec.Struct, frozen=True):
    """One alert of a group: as it stands, as it is in the pending message where that differs, and what that message says of the
    circumstances."""

    entry: Entry | None
    pending: Entry | None = msgspec.field(name="owed")
    found: Found | None = None


_encode = msgspec.msgpack.encode
_group = msgspec.msgpack.Decoder(_GroupRecord)
_entry = msgspec.msgpack.Decoder(_EntryRecord)


def records_of(key: str, before: Group | None, now: Group | None) -> dict[bytes, bytes | None]:
    """The records that turn what is recorded of a group from ``before`` into ``now`` (None: there is no such group)."""
    records: dict[bytes, bytes | None] = {}
    if before is now:
        return records
    old, new = ({} if group is None else group.entries for group in (before, now))
    old_pending, new_pending = _pending_apart(before), _pending_apart(now)
    changed = {name for name, entry in new.items() if old.get(name) is not entry} | (old.keys() - new.keys())
    changed |= {name for name in old_pending.keys() | new_pending.keys() if old_pending.get(name) is not new_pending.get(name)}
    old_found, new_found = _found(before), _found(now)
    changed |= {name for name in old_found.keys() | new_found.keys() if old_found.get(name) is not new_found.get(name)}
    for name in changed:
        held = _EntryRecord(new.get(name), new_pending.get(name), new_found.get(name))
        records[_key(key, name)] = None if held.entry is None and held.pending is None else _encode(held)
    head = None if now is None else _encode(_record(now))
    if head != (None if before is None else _encode(_record(before))):
        records[_key(key)] = head
    return records


def groups_of(records: Mapping[bytes, bytes]) -> dict[str, Group]:
    """The inverse: all groups that the topic holds, by the key they are recorded under. Raises ``Stop`` when a record cannot be
    read."""
    groups: dict[str, _GroupRecord] = {}
    entries: dict[str, dict[str, _EntryRecord]] = {}
    try:
        for key, value in records.items():
            match msgspec.json.decode(key, type=list[str]):
                case [group]:
                    groups[group] = _group.decode(value)
                case [group, name]:
                    entries.setdefault(group, {})[name] = _entry.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Stop(
            f"The notifier's records cannot be read: {error}.",
            hint="Delete the topic kafka.topics.notify_state to begin without them (alerts still firing are sent again).",
        ) from error
    return {key: _whole(record, entries.get(key, {})) for key, record in groups.items()}


def _key(*parts: str) -> bytes:
    return msgspec.json.encode(parts)


def _pending_apart(group: Group | None) -> dict[str, Entry]:
    """The entries of the pending message that have changed since, or are gone from the group."""
    if group is None or group.pending is None:
        return {}
    return {name: e for e in group.pending.entries if group.entries.get(name := e.alert.alert_id) is not e}


def _found(group: Group | None) -> Mapping[str, Found]:
    return {} if group is None or group.pending is None else group.pending.found


def _record(group: Group) -> _GroupRecord:
    pending = None if group.pending is None else msgspec.structs.replace(group.pending, entries=[], found={})
    ids = [] if group.pending is None else [entry.alert.alert_id for entry in group.pending.entries]
    return _GroupRecord(**(_fields(group) | {"entries": {}, "pending": pending, "pending_ids": ids}))


def _whole(record: _GroupRecord, entries: Mapping[str, _EntryRecord]) -> Group:
    pending = record.pending
    if pending is not None:
        as_sent = [(one.pending or one.entry) for name in record.pending_ids if (one := entries.get(name)) is not None]
        found = {name: one.found for name, one in entries.items() if one.found is not None}
        pending = msgspec.structs.replace(pending, entries=[entry for entry in as_sent if entry is not None], found=found)
    held = {name: one.entry for name, one in entries.items() if one.entry is not None}
    kept = {name: value for name, value in _fields(record).items() if name != "pending_ids"}
    return Group(**(kept | {"route": text_of(record.route), "entries": held, "pending": pending}))


def _fields(group: Group) -> dict[str, Any]:
    return {name: getattr(group, name) for name in group.__struct_fields__}
