"""How groups lie in ``tidewatch.notify-state``: one record for each group, one for each alert in it; only changes are written.

The keys are JSON: ``[group]`` and ``[group, alert id]``. Groups are immutable values, so what changed is what is another object.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from service.alerts.notify.grouping import Entry, Group
from service.errors import Stop


class _Head(Group, frozen=True, kw_only=True):
    """A group without its alerts. ``owed_names``: those in the message that is owed, in its order."""

    owed_names: list[str] = msgspec.field(default_factory=list)


class _Alert(msgspec.Struct, frozen=True):
    """One alert of a group: as it stands, and as it is in the message that is owed, where that is something else."""

    entry: Entry | None
    owed: Entry | None


_encode = msgspec.msgpack.encode
_group = msgspec.msgpack.Decoder(_Head)
_alert = msgspec.msgpack.Decoder(_Alert)


def records_of(key: str, before: Group | None, now: Group | None) -> dict[bytes, bytes | None]:
    """The records that turn what is remembered of a group from ``before`` into ``now`` (None: there is no such group)."""
    records: dict[bytes, bytes | None] = {}
    if before is now:
        return records
    old, new = ({} if group is None else group.entries for group in (before, now))
    old_apart, new_apart = _apart(before), _apart(now)
    changed = {name for name, entry in new.items() if old.get(name) is not entry} | (old.keys() - new.keys())
    changed |= {name for name in old_apart.keys() | new_apart.keys() if old_apart.get(name) is not new_apart.get(name)}
    for name in changed:
        held = _Alert(new.get(name), new_apart.get(name))
        records[_key(key, name)] = None if held.entry is None and held.owed is None else _encode(held)
    head = None if now is None else _encode(_head(now))
    if head != (None if before is None else _encode(_head(before))):
        records[_key(key)] = head
    return records


def groups_of(records: Mapping[bytes, bytes]) -> list[Group]:
    """The inverse: all groups that the topic holds. Raises ``Stop`` when a record cannot be read."""
    groups: dict[str, _Head] = {}
    alerts: dict[str, dict[str, _Alert]] = {}
    try:
        for key, value in records.items():
            match msgspec.json.decode(key, type=list[str]):
                case [group]:
                    groups[group] = _group.decode(value)
                case [group, name]:
                    alerts.setdefault(group, {})[name] = _alert.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Stop(
            f"What the notifier remembered cannot be read: {error}.",
            hint="Delete the topic kafka.topics.notify_state to begin without memory (alerts still firing are told again).",
        ) from error
    return [_whole(group, alerts.get(key, {})) for key, group in groups.items()]


def _key(*parts: str) -> bytes:
    return msgspec.json.encode(parts)


def _apart(group: Group | None) -> dict[str, Entry]:
    """What the message that is owed says of alerts that have changed since, or are gone."""
    if group is None or group.owed is None:
        return {}
    return {name: e for e in group.owed.entries if group.entries.get(name := e.alert.alert_id) is not e}


def _head(group: Group) -> _Head:
    owed = None if group.owed is None else msgspec.structs.replace(group.owed, entries=[])
    names = [] if group.owed is None else [entry.alert.alert_id for entry in group.owed.entries]
    return _Head(**(_fields(group) | {"entries": {}, "owed": owed, "owed_names": names}))


def _whole(head: _Head, alerts: Mapping[str, _Alert]) -> Group:
    owed = head.owed
    if owed is not None:
        as_sent = [(one.owed or one.entry) for name in head.owed_names if (one := alerts.get(name)) is not None]
        owed = msgspec.structs.replace(owed, entries=[entry for entry in as_sent if entry is not None])
    entries = {name: one.entry for name, one in alerts.items() if one.entry is not None}
    kept = {name: value for name, value in _fields(head).items() if name != "owed_names"}
    return Group(**(kept | {"entries": entries, "owed": owed}))


def _fields(group: Group) -> dict[str, Any]:
    return {name: getattr(group, name) for name in group.__struct_fields__}
