"""Refused credentials and untrusted certificates are configuration errors, told at once; the right ones work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from service.errors import ConfigError
from service.local.processes import free_port
from service.local.stack import LocalStack
from service.settings import KafkaSettings
from service.state.topics import create_topics
from tests.local.test_listeners import _keystore
from tests.sources.rig import kafka_settings

pytestmark = [pytest.mark.kafka, pytest.mark.slow]
PLAIN_LOGIN = 'org.apache.kafka.common.security.plain.PlainLoginModule required user_alice="open sesame";'


class Secured:
    """The addresses of a Kafka with a TLS and a SASL listener, and the authority that signed its certificate."""

    def __init__(self, folder: Path) -> None:
        self.tls, self.sasl, self.ca_file = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}", folder / "ca.pem"
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.ca_file)
        self.stack = LocalStack(
            folder / "stack",
            kafka_listeners={"SECURE": self.tls, "LOGIN": self.sasl},
            kafka_settings={
                "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SSL,LOGIN:SASL_PLAINTEXT",
                "listener.name.secure.ssl.keystore.type": "PEM",
                "listener.name.secure.ssl.keystore.location": str(_keystore(authority, folder / "server.pem")),
                "sasl.enabled.mechanisms": "PLAIN",
                "listener.name.login.sasl.enabled.mechanisms": "PLAIN",
                "listener.name.login.plain.sasl.jaas.config": PLAIN_LOGIN,
            },
        )


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, kafka_servers: str) -> Iterator[Secured]:
    made = Secured(tmp_path_factory.mktemp("secured"))
    made.stack.start_kafka()
    yield made
    made.stack.down()


def settings(servers: str, **told: Any) -> KafkaSettings:
    return kafka_settings(servers, connect_timeout_seconds=20.0, **told).kafka


async def test_the_right_password_and_authority_work(secured: Secured) -> None:
    login = {"security_protocol": "SASL_PLAINTEXT", "username": "alice", "password": "open sesame"}
    assert {one.outcome for one in await create_topics(settings(secured.sasl, **login))} == {"created"}
    tls = settings(secured.tls, security_protocol="SSL", ca_file=secured.ca_file)
    assert {one.outcome for one in await create_topics(tls)} == {"created"}


@pytest.mark.parametrize("told", [{"password": "guess"}, {"password": "open sesame", "sasl_mechanism": "SCRAM-SHA-256"}])
async def test_refused_credentials_are_told_at_once(secured: Secured, told: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="refuses the credentials of user 'alice'") as error:
        await create_topics(settings(secured.sasl, security_protocol="SASL_PLAINTEXT", username="alice", **told))
    assert told["password"] not in str(error.value) + error.value.hint


async def test_a_certificate_of_a_stranger_is_told_at_once(secured: Secured) -> None:
    with pytest.raises(ConfigError, match="is not trusted") as error:
        await create_topics(settings(secured.tls, security_protocol="SSL"))
    assert "kafka.ca_file" in error.value.hint


async def test_an_address_that_is_none_is_told() -> None:
    with pytest.raises(ConfigError, match="is not host:port"):
        await create_topics(settings("broker"))
