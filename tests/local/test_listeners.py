"""A further listener of the local Kafka, here with TLS, as later tests of the security settings need it."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaConnectionError
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from service.local.processes import free_port
from service.local.stack import LocalStack


def _keystore(authority: trustme.CA, path: Path, name: str = "127.0.0.1") -> Path:
    """A PEM key store as Kafka reads it: the key in PKCS#8, then the certificates."""
    issued = authority.issue_cert(name)
    key = load_pem_private_key(issued.private_key_pem.bytes(), None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    path.write_bytes(key + b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    return path


@pytest.mark.kafka
async def test_a_tls_listener_beside_the_plain_one(tmp_path: Path) -> None:
    authority, address = trustme.CA(), f"127.0.0.1:{free_port()}"
    stack = LocalStack(
        tmp_path / "stack",
        kafka_listeners={"SECURE": address},
        kafka_settings={
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SSL",
            "listener.name.secure.ssl.keystore.type": "PEM",
            "listener.name.secure.ssl.keystore.location": str(_keystore(authority, tmp_path / "server.pem")),
        },
    )
    trusting, strange = ssl.create_default_context(), ssl.create_default_context()
    authority.configure_trust(trusting)
    stack.start_kafka()
    try:
        admin = AIOKafkaAdminClient(bootstrap_servers=address, security_protocol="SSL", ssl_context=trusting)
        await admin.start()
        assert [broker["port"] for broker in (await admin.describe_cluster())["brokers"]] == [int(address.split(":")[1])]
        await admin.close()
        refused = AIOKafkaProducer(bootstrap_servers=address, security_protocol="SSL", ssl_context=strange)
        with pytest.raises(KafkaConnectionError):
            await refused.start()
        await refused.stop()
    finally:
        stack.down()
