"""The notifier's state, written in one transaction with the offset of the alerts topic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from service.errors import BrokerUnavailable
from service.kafka_options import Commit
from service.observability.logging import get_logger
from service.settings import KafkaSettings
from service.state.producer import FencedProducer, Outgoing
from service.state.takeover import take_over

log = get_logger("notify")


class NotifyJournal:
    """Records of the compacted topic ``tidewatch.notify-state``, and of ``tidewatch.notifications`` for the history. Only the
    active notifier writes them."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._group = f"{kafka.group_prefix}.notify"
        self._producer: FencedProducer | None = None

    async def take_over(self) -> tuple[int | None, dict[bytes, bytes]]:
        """Fence the previous notifier; the offset it committed (None if never) and its records.

        Raises ``BrokerUnavailable`` or ``ConfigError``.
        """
        await self.close()
        topics = self._kafka.topics
        self._producer = FencedProducer(self._kafka, group=self._group, topic=topics.alerts, partition=0)
        producers = {0: self._producer}
        found = (await take_over(self._kafka, producers, group=self._group, topic=topics.alerts, state_topic=topics.notify_state))[
            0
        ]
        return (None if found.commit is None else found.commit.offset), found.state

    async def write(
        self,
        records: Mapping[bytes, bytes | None],
        next_offset: int | None,
        deliveries: Mapping[bytes, bytes],
        alerts: Sequence[tuple[bytes, bytes]],
    ) -> bool:
        """Write records (None deletes), the offset, delivery records (by message key) and transitions together. False when that
        did not go through: another notifier may be at work, so nothing may be sent until ``take_over``."""
        if self._producer is None:
            return False
        topics = self._kafka.topics
        outgoing = [Outgoing(topics.notify_state, 0, key, value) for key, value in records.items()]
        outgoing += [Outgoing(topics.notifications, 0, key, value) for key, value in deliveries.items()]
        outgoing += [Outgoing(topics.alerts, 0, key, value) for key, value in alerts]
        try:
            await self._producer.commit(outgoing, None if next_offset is None else Commit(next_offset))
        except BrokerUnavailable as error:
            log.warning("notifier state cannot be recorded", error=str(error))
            return False
        return True

    async def close(self) -> None:
        """Release the producer; bounded in time."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await producer.close()
