"""What changed since it was last recorded: groups, and how their messages fared.

The dispatcher and the receiver queues write to one journal. The notify part takes the changes out of it and keeps them in one
transaction with how far it has read.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from service.alerts.notify.grouping import Group
from service.alerts.topics.deliveries import Delivery

Record = Callable[[], Awaitable[bool]]


class JournalChanges(msgspec.Struct, frozen=True):
    """``groups``: by key, ``None`` for one that was dropped. ``deliveries``: each message that became due, was tried or settled."""

    groups: Mapping[str, Group | None]
    deliveries: Sequence[Delivery]


class Journal:
    """Collects changes until they are taken; only the newest state of each group and message is kept."""

    def __init__(self) -> None:
        self._record: Record | None = None
        self._groups: dict[str, Group | None] = {}
        self._deliveries: dict[str, Delivery] = {}

    def record_with(self, record: Record) -> None:
        """``record`` keeps ``take_changes`` where it survives this process, and says whether this process may still notify.
        Without it nothing is collected and nothing outlives the process."""
        self._record = record

    def note_group(self, key: str, group: Group | None) -> None:
        """A group changed; ``None``: it was dropped."""
        if self._record is not None:
            self._groups[key] = group

    def note_delivery(self, delivery: Delivery) -> None:
        """A message became due, was tried, or was settled."""
        if self._record is not None:
            self._deliveries[delivery.key] = delivery

    async def recorded(self) -> bool:
        """Keep what changed. False when this process may not notify any more. Awaited before each message is sent and after."""
        return await self._record() if self._record is not None else True

    def take_changes(self) -> JournalChanges:
        """What changed since this was last called."""
        changes = JournalChanges(self._groups, list(self._deliveries.values()))
        self._groups, self._deliveries = {}, {}
        return changes

    def clear(self) -> None:
        """Drop what was not taken: another process records from now on."""
        self._groups.clear()
        self._deliveries.clear()
