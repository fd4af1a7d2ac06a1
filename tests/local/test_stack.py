"""The local stack, on the real servers."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from elasticsearch import AsyncElasticsearch

from service.errors import LocalStackError
from service.local.elasticsearch import cluster_status
from service.local.kafka import metadata_brokers
from service.local.ports import PortsFile
from service.local.processes import port_is_free
from service.local.stack import LocalStack

OWNER = """
import sys, time
from pathlib import Path
from service.local.stack import LocalStack
LocalStack(Path(sys.argv[1])).start_kafka()
print('up', flush=True)
time.sleep(300)
"""
DETACHING_STARTER = """
import sys
from pathlib import Path
from service.local.stack import LocalStack
LocalStack(Path(sys.argv[1])).start_kafka(detach=True)
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """A stack of this module's own, because its tests stop and start the servers."""
    stack = LocalStack(tmp_path_factory.mktemp("stack"))
    stack.up()
    yield stack
    stack.down()


def _port(endpoint: str) -> int:
    return int(endpoint.rsplit(":", 1)[1])


async def _produce_and_consume(servers: str, text: bytes) -> bytes | None:
    topic = f"test-{uuid.uuid4().hex[:8]}"
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
    finally:
        await admin.close()
    async with AIOKafkaProducer(bootstrap_servers=servers, enable_idempotence=True) as producer:
        await producer.send_and_wait(topic, text)
    async with AIOKafkaConsumer(topic, bootstrap_servers=servers, group_id=topic, auto_offset_reset="earliest") as consumer:
        record = await asyncio.wait_for(consumer.getone(), 30)
        await consumer.commit()
        return bytes(record.value)


async def _index_and_search(url: str, text: str) -> str:
    async with AsyncElasticsearch(url) as client:
        index = f"test-{uuid.uuid4().hex[:8]}"
        await client.index(index=index, id="1", document={"text": text}, refresh=True)
        found = await client.search(index=index, query={"match": {"text": text}})
        return str(found["hits"]["hits"][0]["_source"]["text"])


@pytest.mark.kafka
async def test_shared_kafka_takes_and_gives_a_record(kafka_servers: str) -> None:
    assert await _produce_and_consume(kafka_servers, b"hello") == b"hello"


@pytest.mark.elasticsearch
async def test_shared_elasticsearch_takes_and_finds_a_document(elasticsearch_url: str) -> None:
    assert await _index_and_search(elasticsearch_url, "tide") == "tide"


@pytest.mark.kafka
@pytest.mark.elasticsearch
def test_up_is_idempotent_and_both_are_healthy(stack: LocalStack) -> None:
    before = {server.name: server.pid for server in stack.status()}
    stack.up()
    after = stack.status()
    assert {server.name: server.pid for server in after} == before
    assert all(server.healthy for server in after)
    assert metadata_brokers("127.0.0.1", _port(stack.kafka_servers)) == 1
    assert cluster_status("127.0.0.1", _port(stack.elasticsearch_url)) in ("green", "yellow")


@pytest.mark.kafka
@pytest.mark.elasticsearch
@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
async def test_kafka_alone_comes_back_with_its_data(stack: LocalStack, kill: bool) -> None:
    servers = stack.kafka_servers
    topic = f"kept-{uuid.uuid4().hex[:8]}"
    async with AIOKafkaProducer(bootstrap_servers=servers) as producer:
        admin = AIOKafkaAdminClient(bootstrap_servers=servers)
        await admin.start()
        await admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
        await admin.close()
        await producer.send_and_wait(topic, b"kept")
    await asyncio.to_thread(stack.stop_kafka, kill=kill)
    assert {server.name: server.healthy for server in stack.status()} == {"Kafka": False, "Elasticsearch": True}
    await asyncio.to_thread(stack.start_kafka)
    assert stack.kafka_servers == servers
    async with AIOKafkaConsumer(topic, bootstrap_servers=servers, auto_offset_reset="earliest") as consumer:
        record = await asyncio.wait_for(consumer.getone(), 30)
    assert record.value == b"kept"


@pytest.mark.elasticsearch
@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
async def test_elasticsearch_alone_comes_back_with_its_data(stack: LocalStack, kill: bool) -> None:
    url = stack.elasticsearch_url
    index = f"kept-{uuid.uuid4().hex[:8]}"
    async with AsyncElasticsearch(url) as client:
        await client.index(index=index, id="1", document={"text": "kept"})
    await asyncio.to_thread(stack.restart_elasticsearch, kill=kill)
    assert stack.elasticsearch_url == url
    async with AsyncElasticsearch(url) as client:
        await client.indices.refresh(index=index)
        assert (await client.get(index=index, id="1"))["_source"] == {"text": "kept"}
    assert all(server.healthy for server in stack.status())


@pytest.mark.kafka
def test_the_servers_die_with_a_killed_owner(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"up\n"
        stack = LocalStack(tmp_path)
        servers = stack.kafka_servers
        pid = stack.status()[0].pid
        assert pid is not None
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        owner.send_signal(signal.SIGKILL)
    _gone, alive = psutil.wait_procs(family, timeout=20)
    assert alive == []
    assert port_is_free(_port(servers))


@pytest.mark.kafka
def test_a_detached_server_outlives_its_starter(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", DETACHING_STARTER, str(tmp_path)], check=True)
    stack = LocalStack(tmp_path)
    time.sleep(1.5)  # longer than a keeper would need to notice
    try:
        assert stack.status()[0].healthy
    finally:
        stack.down()


def test_a_taken_port_is_said_in_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(LocalStackError, match=f"Kafka cannot listen on port {port}: another program does."):
            LocalStack(tmp_path, kafka_port=port).start_kafka()


def test_a_port_that_was_taken_before_its_server_ever_ran_is_chosen_anew(tmp_path: Path) -> None:
    ports = PortsFile(tmp_path / "ports.json")
    first = ports.choose(kafka=0, elasticsearch=0, kafka_ran=False, elasticsearch_ran=False)
    with socket.create_server(("127.0.0.1", first.elasticsearch)):
        second = ports.choose(kafka=0, elasticsearch=0, kafka_ran=False, elasticsearch_ran=False)
    assert second.elasticsearch != first.elasticsearch
    assert (second.kafka, second.controller, second.transport) == (first.kafka, first.controller, first.transport)
    with socket.create_server(("127.0.0.1", second.elasticsearch)):  # it ran: a program that knows its address must find it there
        assert ports.choose(kafka=0, elasticsearch=0, kafka_ran=False, elasticsearch_ran=True) == second
    assert ports.read() == second
    assert ports.choose(kafka=9092, elasticsearch=0, kafka_ran=True, elasticsearch_ran=True).kafka == 9092


def test_a_server_that_ends_while_starting_shows_its_log(tmp_path: Path) -> None:
    stack = LocalStack(tmp_path)
    (tmp_path / "kafka" / "data").mkdir(parents=True)
    (tmp_path / "kafka" / "data" / "meta.properties").write_text("version=1\nnode.id=99\ncluster.id=other\n")
    with pytest.raises(LocalStackError, match=r"Kafka ended while starting\.") as caught:
        stack.start_kafka()
    assert str(tmp_path / "kafka" / "server.log") in caught.value.hint
    assert "99" in caught.value.hint
    assert not list(tmp_path.rglob("*.pid"))


@pytest.mark.elasticsearch
def test_a_failed_up_leaves_no_half_a_stack(tmp_path: Path) -> None:
    stack = LocalStack(tmp_path)
    (tmp_path / "kafka" / "data").mkdir(parents=True)
    (tmp_path / "kafka" / "data" / "meta.properties").write_text("version=1\nnode.id=99\ncluster.id=other\n")
    with pytest.raises(LocalStackError, match=r"Kafka ended while starting\."):
        stack.up(detach=True)
    assert [server.pid for server in stack.status()] == [None, None]
    assert port_is_free(_port(stack.elasticsearch_url))


def test_asking_for_endpoints_before_up_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(LocalStackError) as caught:
        _ = LocalStack(tmp_path).kafka_servers
    assert "tidewatch local up" in caught.value.hint


def test_a_pid_that_was_given_to_another_program_is_not_ours(tmp_path: Path) -> None:
    stack = LocalStack(tmp_path)
    (tmp_path / "kafka").mkdir()
    (tmp_path / "kafka" / "server.pid").write_text(f'{{"pid": {os.getpid()}, "created": 1.0}}')
    stack.down()  # must not kill the test run
    assert [server.pid for server in stack.status()] == [None, None]


# Last, because it ends the module's own stack.
@pytest.mark.kafka
@pytest.mark.elasticsearch
def test_down_leaves_no_process_and_no_port(stack: LocalStack) -> None:
    stack.up()
    ports = [_port(stack.kafka_servers), _port(stack.elasticsearch_url)]
    started = [psutil.Process(server.pid) for server in stack.status() if server.pid]
    started += [child for process in started for child in process.children(recursive=True)]
    assert len(started) == 4  # two keepers, two servers
    assert not any(port_is_free(port) for port in ports)
    stack.down()
    assert all(port_is_free(port) for port in ports)
    assert [process for process in started if process.is_running()] == []
    assert not list(stack.state_dir.rglob("*.pid"))
    stack.down()  # and once more does no harm
