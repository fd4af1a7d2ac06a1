"""What is remembered of entities beyond their windows, so that a restart changes no verdict and no alert.

It is written with each batch, in the same transaction, and read when a partition is taken over. Windows are not part of it:
they are refilled from the topic itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from service.alerts.lifecycle import episodes
from service.alerts.lifecycle.episodes import Episodes
from service.detectors.decision import ensemble
from service.errors import Stop
from service.observability.logging import get_logger
from service.state.entity_records import StateBook
from service.stream.models import Model, Models

log = get_logger("scoring")


class EntityState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One entity's. ``bundle`` and ``version`` name the model that ``detector`` belongs to."""

    bundle: str
    version: str
    detector: ensemble.DetectorState | None = None
    episode: episodes.EpisodeState | None = None
    labels: Mapping[str, str] = {}


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(EntityState)


class EntityStates:
    """Keeps the encoded memory of every entity in step with its detector, its episode and its labels."""

    def __init__(self, models: Models, episodes: Episodes) -> None:
        self._models = models
        self._episodes = episodes
        self._book = StateBook()

    def change(self, partition: int, changed: Collection[str], gone: Collection[str] = ()) -> dict[bytes, bytes | None]:
        """The state records to write after a batch that changed these entities and forgot those."""
        memories: dict[str, bytes | None] = dict.fromkeys(gone)
        for entity in changed:
            model = self._models.of(entity)
            if model is not None:
                memories[entity] = _encoder.encode(self._remember(entity, model))
        return self._book.change(partition, memories)

    def restore(self, partition: int, records: Mapping[bytes, bytes]) -> None:
        """Take over what the state topic holds of a partition.

        Raises ``Stop`` when it cannot be read. Another version of a bundle keeps what does not depend on the model: the open
        alert, the labels, and what is left of the alert budget; its level begins at the new calibration.
        """
        anew: dict[str, int] = {}
        for entity, encoded in self._book.load(partition, records).items():
            model = self._models.of(entity)
            if model is None:  # no rule serves it any more; its record stays until somebody deletes the topic
                continue
            try:
                memory = _decoder.decode(encoded)
            except msgspec.DecodeError as error:
                raise Stop(
                    f"What is remembered of {entity!r} cannot be read: {error}.",
                    hint="Delete the topic kafka.topics.state to begin without memory (open alerts are then forgotten).",
                ) from error
            self._restore(entity, memory, model, anew)
        for name, count in anew.items():
            log.warning("another version of the bundle: levels begin at its calibration", bundle=name, entities=count)

    def drop(self, partition: int) -> list[str]:
        """Drop a partition; whoever was remembered of it."""
        entities = self._book.entities(partition)
        self._book.drop(partition)
        return entities

    def _remember(self, entity: str, model: Model) -> EntityState:
        return EntityState(
            bundle=model.name,
            version=model.detector.bundle.version,
            detector=model.detector.state_of(entity),
            episode=self._episodes.state_of(entity),
            labels=model.processor.labels_of(entity),
        )

    def _restore(self, entity: str, memory: EntityState, model: Model, anew: dict[str, int]) -> None:
        known = self._episodes.state_of(entity)
        if known is not None and memory.episode is not None and known.seen_until >= memory.episode.seen_until:
            return  # it moved to another partition of ours, and this is what it was before
        if memory.episode is not None:
            self._episodes.restore({entity: memory.episode})
        if memory.labels:
            model.processor.restore_labels(entity, memory.labels)
        if memory.detector is None:
            return
        if (memory.bundle, memory.version) == (model.name, model.detector.bundle.version):
            model.detector.restore({entity: memory.detector})
        else:
            anew[model.name] = anew.get(model.name, 0) + 1
            model.detector.begin_anew(entity, memory.detector.tracker)
