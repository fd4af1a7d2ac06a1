"""The state of each entity beyond its windows, so that a restart changes no verdict and no alert.

It is written with each batch, in the same transaction, and read when a partition is taken over. Windows are not part of it: they
are refilled from the metrics topic.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from service.alerts.lifecycle.episode import EpisodeState
from service.alerts.lifecycle.episodes import Episodes
from service.detectors.decision import ensemble
from service.errors import Stop
from service.observability.logging import get_logger
from service.state.entity_records import EntityRecords
from service.stream.models import Model, Models

log = get_logger("scoring")


class EntityState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The state of one entity. ``bundle`` and ``version`` name the model that ``detector`` belongs to."""

    bundle: str
    version: str
    detector: ensemble.DetectorState | None = None
    episode: EpisodeState | None = None
    labels: Mapping[str, str] = {}


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(EntityState)


class EntityStates:
    """Encodes the state of entities (detector, episode, labels) into records of the state topic, and restores it from them."""

    def __init__(self, models: Models, episodes: Episodes) -> None:
        self._models = models
        self._episodes = episodes
        self._records = EntityRecords()

    def change(self, partition: int, changed: Collection[str], expired: Collection[str] = ()) -> dict[bytes, bytes | None]:
        """The state records to write after a batch that ``changed`` and ``expired`` these entities."""
        encoded: dict[str, bytes | None] = dict.fromkeys(expired)
        for entity in changed:
            model = self._models.of(entity)
            if model is not None:
                encoded[entity] = _encoder.encode(self._state_of(entity, model))
        return self._records.change(partition, encoded)

    def restore(self, partition: int, records: Mapping[bytes, bytes]) -> None:
        """Restore a partition from its records in the state topic.

        Raises ``Stop`` when they cannot be read. Where the bundle has another version, only what does not depend on the model is
        restored: the open alert and the labels. The level starts at the new calibration.
        """
        recalibrated: dict[str, int] = {}  # entities by bundle
        for entity, encoded in self._records.load(partition, records).items():
            model = self._models.of(entity)
            if model is None:  # no rule matches it any more; its record stays in the topic
                continue
            try:
                state = _decoder.decode(encoded)
            except msgspec.DecodeError as error:
                raise Stop(
                    f"The stored state of {entity!r} cannot be read: {error}.",
                    hint="Delete the topic kafka.topics.state to start without state; open alerts are then lost.",
                ) from error
            self._restore(entity, state, model, recalibrated)
        for name, count in recalibrated.items():
            log.warning("the bundle has another version; levels start at its calibration", bundle=name, entities=count)

    def drop(self, partition: int) -> list[str]:
        """Drop a partition; the entities it had state of."""
        entities = self._records.entities(partition)
        self._records.drop(partition)
        return entities

    def _state_of(self, entity: str, model: Model) -> EntityState:
        return EntityState(
            bundle=model.name,
            version=model.detector.bundle.version,
            detector=model.detector.state_of(entity),
            episode=self._episodes.state_of(entity),
            labels=model.processor.labels_of(entity),
        )

    def _restore(self, entity: str, state: EntityState, model: Model, recalibrated: dict[str, int]) -> None:
        known = self._episodes.state_of(entity)
        if known is not None and state.episode is not None and known.seen_until >= state.episode.seen_until:
            return  # the entity moved to another partition of ours; this is its older state
        if state.episode is not None:
            self._episodes.restore({entity: state.episode})
        if state.labels:
            model.processor.restore_labels(entity, state.labels)
        if state.detector is None:
            return
        if (state.bundle, state.version) == (model.name, model.detector.bundle.version):
            model.detector.restore({entity: state.detector})
        else:
            recalibrated[model.name] = recalibrated.get(model.name, 0) + 1  # its level starts where the new calibration puts it
