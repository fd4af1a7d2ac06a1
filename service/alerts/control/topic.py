"""Reads and writes ``tidewatch.control``. Every reader sees every command, so there is no group and nothing to commit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from service.alerts.control.commands import Command, decode, encode, encode_key, unusable
from service.errors import BrokerUnavailable, CommandRefused, InvalidMessage
from service.kafka_options import check_topic_exists, connect, disconnect, kafka_client_options
from service.observability.logging import get_logger
from service.settings import KafkaSettings

log = get_logger("control")

POLL_MS = 500


class ControlReader:
    """Gives every command there ever was, then follows. ``on_commands(commands)`` is called with each batch, in order."""

    def __init__(self, kafka: KafkaSettings, on_commands: Callable[[list[Command]], None]) -> None:
        self._kafka = kafka
        self._partition = TopicPartition(kafka.topics.control, 0)
        self._on_commands = on_commands
        self._consumer: Any = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    async def start(self) -> None:
        """Read to the present end, then follow in the background. Raises ``BrokerUnavailable`` or ``ConfigError``."""
        self._consumer = await connect(self._make, self._kafka)
        check_topic_exists(await self._consumer.topics(), self._partition.topic)
        self._consumer.assign([self._partition])
        try:
            end = (await self._consumer.end_offsets([self._partition]))[self._partition]
            while await self._consumer.position(self._partition) < end:
                await self._read()
        except KafkaError as error:
            raise BrokerUnavailable(f"The topic {self._partition.topic} cannot be read: {error}.") from error
        self._task = asyncio.create_task(self._follow(), name="control")

    async def close(self) -> None:
        """Stop following and disconnect."""
        self._stopping = True
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)  # getmany is never cancelled
        if self._consumer is not None:
            await disconnect(self._consumer.stop())

    def _make(self) -> Any:
        return AIOKafkaConsumer(
            group_id=None, auto_offset_reset="earliest", isolation_level="read_committed", **kafka_client_options(self._kafka)
        )

    async def _follow(self) -> None:
        while not self._stopping:
            try:
                await self._read()
            except KafkaError as error:
                log.warning("the control topic cannot be read now", why=str(error))
                await asyncio.sleep(1)

    async def _read(self) -> None:
        fetched = await self._consumer.getmany(timeout_ms=POLL_MS)
        commands: list[Command] = []
        for message in (message for messages in fetched.values() for message in messages):
            try:
                commands.append(decode(message.value))
            except InvalidMessage as error:
                log.warning("control topic holds a record that is no command; skipped", offset=message.offset, why=str(error))
        if commands:
            self._on_commands(commands)


async def say(kafka: KafkaSettings, command: Command) -> None:
    """Write one command, waiting until Kafka has it.

    Raises ``CommandRefused`` for one nobody would obey, ``ConfigError`` and ``BrokerUnavailable`` as ``connect`` does.
    """
    why = unusable(command)
    if why is not None:
        raise CommandRefused(f"This is refused: {why}.")
    producer: Any = await connect(lambda: AIOKafkaProducer(enable_idempotence=True, **kafka_client_options(kafka)), kafka)
    try:
        check_topic_exists((await producer.client.fetch_all_metadata()).topics(), kafka.topics.control)
        await producer.send_and_wait(kafka.topics.control, encode(command), key=encode_key(command), partition=0)
    except KafkaError as error:
        raise BrokerUnavailable(f"Kafka did not take the command: {error}.") from error
    finally:
        await producer.stop()
