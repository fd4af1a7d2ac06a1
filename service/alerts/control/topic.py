"""Reads and writes ``tidewatch.control``. Every reader reads all commands, so there is no group and nothing to commit."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from service.alerts.control.commands import Command, decode, encode, encode_key, refusal
from service.errors import BrokerUnavailable, CommandRefused
from service.kafka_options import check_topic_exists, connect, disconnect, kafka_client_options
from service.observability.logging import get_logger
from service.observability.tasks import BackgroundTasks
from service.settings import KafkaSettings

log = get_logger("control")

POLL_MS = 500
MOST_TRIES = 5  # of a command whose handling fails
DRAIN_SECONDS = 5.0  # several polls: a poll is left to end, because aiokafka's getmany must not be cancelled


class ControlReader:
    """Reads every command on the topic, then follows it.

    ``on_commands(commands)`` gets each batch in order. ``on_dropped(keys)`` gets the record keys of commands that were deleted from
    the topic, after any command of the same batch. Both must bear repetition.

    ``tasks``: this reader's own; ``close`` ends them. When the handling of a batch raises, its commands are handled one by one, so
    that a bad one holds back no other. The bad one is tried ``MOST_TRIES`` times; meanwhile the part is not ready and the cause is
    logged. Then it is left until the next start, which reads it again.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        on_commands: Callable[[list[Command]], None],
        tasks: BackgroundTasks,
        *,
        on_dropped: Callable[[list[str]], None] = lambda _: None,
    ) -> None:
        self._kafka = kafka
        self._partition = TopicPartition(kafka.topics.control, 0)
        self._on_commands = on_commands
        self._on_dropped = on_dropped
        self._tasks = tasks
        self._consumer: Any = None
        self._pending: list[Command] = []  # read, and not handled yet
        self._dropped: list[str] = []
        self._tries: Counter[str] = Counter()  # that failed, by record key
        self._stopping = False

    async def start(self) -> None:
        """Read to the present end, then follow in the background. Raises ``BrokerUnavailable`` or ``ConfigError``."""
        self._consumer = await connect(self._make, self._kafka)
        check_topic_exists(await self._consumer.topics(), self._partition.topic)
        self._consumer.assign([self._partition])
        try:
            end = (await self._consumer.end_offsets([self._partition]))[self._partition]
            while await self._consumer.position(self._partition) < end:
                await self._fetch()
        except KafkaError as error:
            raise BrokerUnavailable(f"The topic {self._partition.topic} cannot be read: {error}.") from error
        with contextlib.suppress(Exception):  # what fails stays pending: the task tries it again, and reports it
            self._hand_over()
        self._tasks.start("control topic", self._follow)

    async def close(self) -> None:
        """Stop following and disconnect."""
        self._stopping = True
        try:
            await self._tasks.close(drain=DRAIN_SECONDS)
        finally:
            if self._consumer is not None:
                await disconnect(self._consumer.stop())

    def _make(self) -> Any:
        return AIOKafkaConsumer(
            group_id=None, auto_offset_reset="earliest", isolation_level="read_committed", **kafka_client_options(self._kafka)
        )

    async def _follow(self) -> None:
        while not self._stopping:
            self._hand_over()
            try:
                await self._fetch()
            except KafkaError as error:
                raise BrokerUnavailable(f"The topic {self._partition.topic} cannot be read: {error}.") from error

    async def _fetch(self) -> None:
        """Fetch once. What came is pending until it is handled, whatever fails in between."""
        fetched = await self._consumer.getmany(timeout_ms=POLL_MS)
        for message in (message for messages in fetched.values() for message in messages):
            try:
                if message.value is None and message.key is not None:
                    self._dropped.append(message.key.decode())
                else:
                    self._pending.append(decode(message.value))
            except Exception as error:  # noqa: BLE001 - whatever a record raises costs that record
                log.warning("control topic holds a record that is no command; skipped", offset=message.offset, why=str(error))

    def _hand_over(self) -> None:
        """Hand over what is pending. Raises what the handling of a command raised that is to be tried again."""
        dropped = set(self._dropped)
        batch = [command for command in self._pending if encode_key(command).decode() not in dropped]
        self._pending = []
        try:
            if batch:
                self._on_commands(batch)
        except Exception as error:  # noqa: BLE001 - whatever one command's handling raises, the others are handled
            log.warning("a batch of commands was not handled; each is handled by itself", commands=len(batch), why=repr(error))
            failures = [failure for command in batch if (failure := self._handle(command)) is not None]
            if failures:
                raise failures[0] from None
        if self._dropped:
            self._on_dropped(self._dropped)
            self._dropped = []

    def _handle(self, command: Command) -> Exception | None:
        """Handle one command; the failure, if it is to be tried again."""
        key = encode_key(command).decode()
        try:
            self._on_commands([command])
        except Exception as error:
            self._tries[key] += 1
            if self._tries[key] < MOST_TRIES:
                self._pending.append(command)
                return error
            log.exception("a command cannot be handled; it is tried again at the next start", command=key)
        self._tries.pop(key, None)
        return None


async def send_command(kafka: KafkaSettings, command: Command) -> None:
    """Write one command, waiting until Kafka has it.

    Raises ``CommandRefused`` for one that readers would skip, ``ConfigError`` and ``BrokerUnavailable`` as ``connect`` does.
    """
    why = refusal(command)
    if why is not None:
        raise CommandRefused(f"This is refused: {why}.")
    await _write(kafka, [(encode_key(command), encode(command))])


async def delete_commands(kafka: KafkaSettings, keys: Sequence[str]) -> None:
    """Delete commands from the topic by their record keys, in this order. Raises as ``send_command`` does."""
    await _write(kafka, [(key.encode(), None) for key in keys])


async def _write(kafka: KafkaSettings, records: Sequence[tuple[bytes, bytes | None]]) -> None:
    producer: Any = await connect(lambda: AIOKafkaProducer(enable_idempotence=True, **kafka_client_options(kafka)), kafka)
    try:
        check_topic_exists((await producer.client.fetch_all_metadata()).topics(), kafka.topics.control)
        sent = [await producer.send(kafka.topics.control, value, key=key, partition=0) for key, value in records]
        await asyncio.gather(*sent)
    except KafkaError as error:
        raise BrokerUnavailable(f"Kafka did not take the command: {error}.") from error
    finally:
        await disconnect(producer.stop())
