"""A producer of metrics: one message for one entity at one time, with the entity as the key and a JSON value.

python examples/producer.py --servers 127.0.0.1:9092 --topic metrics --rows 60
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time

from aiokafka import AIOKafkaProducer

ENTITIES = ("db-1", "db-2")


def message(entity: str, timestamp_ms: int) -> tuple[bytes, bytes]:
    """Key and value. A missing metric is ``null`` or left out; labels are optional and can be used in routes and silences."""
    value = {
        "entity": entity,
        "timestamp": timestamp_ms,
        "values": {"cpu": random.gauss(40, 5), "memory": random.gauss(70, 1), "queries": random.gauss(900, 50)},
        "labels": {"rack": "7"},
    }
    return entity.encode(), json.dumps(value).encode()


async def main() -> None:
    """Send ``--rows`` rows for each entity, ``--interval`` seconds apart."""
    parser = argparse.ArgumentParser(description="Send metrics to Kafka.")
    parser.add_argument("--servers", default="127.0.0.1:9092")
    parser.add_argument("--topic", default="metrics")
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--interval", type=float, default=1.0)
    told = parser.parse_args()
    async with AIOKafkaProducer(bootstrap_servers=told.servers) as producer:
        for _ in range(told.rows):
            now_ms = time.time_ns() // 1_000_000
            for entity in ENTITIES:
                key, value = message(entity, now_ms)
                await producer.send_and_wait(told.topic, value, key=key)
            await asyncio.sleep(told.interval)
    print(f"sent {told.rows * len(ENTITIES)} messages to {told.topic}")


if __name__ == "__main__":
    asyncio.run(main())
