"""Writes dead letters of the parts that read the alerts topic, before their offset is committed; and sends records back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from service.domain import Record, Rejected
from service.errors import ConfigError
from service.settings import KafkaSettings
from service.state.dead_letter import DeadLetter, dead_letter, truncated
from service.state.producer import Outgoing
from service.state.writer import Writer

TRUNCATED_BYTES = 100_000


class DeadLetterWriter:
    """Keeps rejected records until ``flush``. At least once: a process that dies before it commits writes them again."""

    def __init__(self, kafka: KafkaSettings, *, on_written: Callable[[Iterable[str]], None]) -> None:
        """``on_written(reasons)`` is called when dead letters are written, with the reason of each."""
        self._on_written = on_written
        self._topic = kafka.topics.dead_letter
        self._kept: list[Rejected] = []
        self._writer = Writer(kafka, "dead letters")

    def keep(self, rejected: Rejected) -> None:
        """Write the record with the next ``flush``."""
        self._kept.append(rejected)

    async def flush(self) -> None:
        """Write what is kept. Raises ``BrokerUnavailable`` (unwritten records stay kept) or ``ConfigError``."""
        for rejected in list(self._kept):  # one by one: each may be as large as a topic allows
            letter = dead_letter(rejected)
            try:
                await self._writer.write([_outgoing(self._topic, letter)])
            except ConfigError:  # Kafka takes no record of this size: its beginning and the reason are worth keeping
                await self._writer.write([_outgoing(self._topic, truncated(letter, TRUNCATED_BYTES))])
            self._kept.remove(rejected)
            self._on_written([rejected.reason])

    async def close(self) -> None:
        """Disconnect; bounded in time."""
        await self._writer.close()


def _outgoing(topic: str, letter: DeadLetter) -> Outgoing:
    return Outgoing(topic, 0, letter.key, letter.value, letter.headers)


async def send_again(kafka: KafkaSettings, records: Sequence[Record]) -> None:
    """Write records to the topic and partition they came from, in order. Raises ``BrokerUnavailable`` or ``ConfigError``."""
    writer = Writer(kafka, "records")
    try:
        for record in records:
            await writer.write([Outgoing(record.topic, record.partition, record.key, record.value, tuple(record.headers))])
    finally:
        await writer.close()
