"""Which model serves which entity."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

from service.detectors.window_scorer import WindowScorer
from service.domain import Sample, Schema
from service.stream.processor import StreamProcessor

_MAX_CACHED_ENTITIES = 200_000  # the cache is emptied at its limit


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """One bundle in use: its schema, the windows of its entities, and its detector."""

    name: str
    schema: Schema
    processor: StreamProcessor
    detector: WindowScorer


class Models:
    """The rules of ``models`` in the settings, in order: the first glob that matches an entity decides which model serves it."""

    def __init__(self, rules: Sequence[tuple[str, Model]]) -> None:
        self._rules = tuple(rules)
        self._cache: dict[str, Model | None] = {}
        self.all: tuple[Model, ...] = tuple(dict.fromkeys(model for _, model in rules))

    def of(self, entity: str) -> Model | None:
        """The model that serves ``entity``, or None when no rule matches it."""
        try:
            return self._cache[entity]
        except KeyError:
            if len(self._cache) >= _MAX_CACHED_ENTITIES:
                self._cache.clear()
            found = next((model for glob, model in self._rules if fnmatch.fnmatchcase(entity, glob)), None)
            self._cache[entity] = found
            return found

    def schema_of(self, entity: str) -> Schema | None:
        """The schema a codec should read ``entity``'s messages with."""
        model = self.of(entity)
        return None if model is None else model.schema

    def split(self, samples: Sequence[Sample]) -> list[tuple[Model, Sequence[Sample]]]:
        """The samples by the model that serves them, each part in its original order."""
        if len(self.all) == 1:
            return [(self.all[0], samples)]
        parts: dict[Model, list[Sample]] = {}
        for sample in samples:
            model = self.of(sample.entity)
            if model is not None:  # a codec only makes samples of entities that have a schema, hence a model
                parts.setdefault(model, []).append(sample)
        return list(parts.items())
