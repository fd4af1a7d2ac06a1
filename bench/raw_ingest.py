"""The upper limit of speed: consume with aiokafka, decode with msgspec, write into a ring buffer; one process, one core.

    python -m bench.raw_ingest --servers HOST:PORT --topic TOPIC --dims 38 --entities 1000 --partitions 4 --records N

prints JSON: records, seconds and CPU seconds.
"""

from __future__ import annotations

import argparse
import struct
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import uvloop
from aiokafka import AIOKafkaConsumer, TopicPartition

from service.sources.kafka import FETCH_BYTES

WINDOW = 100
BATCH = 4000


async def ingest(servers: str, topic: str, dims: int, entities: int, records: int, partition_count: int) -> dict[str, float]:
    """Read ``records`` messages from the beginning of the topic."""
    values = msgspec.defstruct("Values", [(f"m{at:02d}", float) for at in range(dims)], gc=False)
    message = msgspec.defstruct("Message", [("entity", str), ("timestamp", int), ("values", values)], gc=False)
    decode: Callable[[bytes], Any] = msgspec.json.Decoder(message).decode
    astuple, pack = msgspec.structs.astuple, struct.Struct(f"{dims}d").pack
    ring = np.zeros((entities, WINDOW, dims), np.float32)
    places = np.zeros(entities, np.int64)
    slots: dict[bytes, int] = {}
    consumer = AIOKafkaConsumer(
        bootstrap_servers=servers,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_partition_fetch_bytes=FETCH_BYTES,
    )
    await consumer.start()
    done, began, cpu = 0, 0.0, 0.0
    try:
        partitions = [TopicPartition(topic, at) for at in range(partition_count)]
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        began, cpu = time.perf_counter(), time.process_time()
        while done < records:
            fetched = await consumer.getmany(timeout_ms=1000, max_records=BATCH)
            batch = [one for part in fetched.values() for one in part]
            if not batch:
                continue
            rows = b"".join([pack(*astuple(decode(one.value).values)) for one in batch])
            at = np.array([slots.setdefault(one.key, len(slots)) for one in batch])
            # In this simplest ring buffer several rows of one entity in a batch overwrite each other.
            ring[at, places[at] % WINDOW] = np.frombuffer(rows).reshape(len(batch), dims)
            places[at] += 1
            done += len(batch)
        return {"records": done, "seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
    finally:
        await consumer.stop()


def main() -> None:
    """Measure once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", required=True)
    parser.add_argument("--topic", required=True)
    for name in ("dims", "entities", "records", "partitions"):
        parser.add_argument(f"--{name}", type=int, required=True)
    told = parser.parse_args()
    found = uvloop.run(ingest(told.servers, told.topic, told.dims, told.entities, told.records, told.partitions))
    print(msgspec.json.encode(found).decode())


if __name__ == "__main__":
    main()
