"""How many entities have each value of a label: what tells a rack that fails from a label that everything has. Bounded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec

MOST_LABELS, MOST_VALUES = 30, 200  # a label with more values names single entities, and explains nothing
MOST_BYTES = 100_000  # in a report, which must fit into one record


class LabelCounts:
    """Counts the labels of entities."""

    def __init__(self) -> None:
        self.entities = 0
        self._counts: dict[str, Counter[str]] = {}
        self._left_out: set[str] = set()

    def add(self, labels: Mapping[str, str]) -> None:
        """One more entity."""
        self.entities += 1
        for name, value in labels.items():
            if name in self._left_out:
                continue
            counts = self._counts.get(name)
            if counts is None:
                if len(self._counts) >= MOST_LABELS:
                    continue
                counts = self._counts[name] = Counter()
            counts[value] += 1
            if len(counts) > MOST_VALUES:
                del self._counts[name]
                if len(self._left_out) < MOST_LABELS:
                    self._left_out.add(name)

    def counts(self) -> dict[str, dict[str, int]]:
        """By label and value, those with the fewest values first, as far as ``MOST_BYTES`` go."""
        found: dict[str, dict[str, int]] = {}
        left = MOST_BYTES
        for name, counts in sorted(self._counts.items(), key=lambda item: (len(item[1]), item[0])):
            left -= len(msgspec.json.encode([name, counts]))
            if left < 0:
                break
            found[name] = dict(counts)
        return found
