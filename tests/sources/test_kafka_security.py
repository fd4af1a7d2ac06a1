"""Refused credentials and untrusted certificates are configuration errors, told at once; the right ones work, for every client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from service.errors import BrokerUnavailable, ConfigError
from service.local import jars
from service.local.kafka import Kafka
from service.local.processes import free_port
from service.local.stack import LocalStack
from service.settings import KafkaSettings
from service.sources.publisher import MetricsMessage, MetricsPublisher
from service.state.topics import create_topics
from tests.local.test_listeners import _keystore
from tests.sources.rig import Worker, kafka_settings, message, read_all

pytestmark = [pytest.mark.kafka, pytest.mark.slow]
PLAIN_LOGIN = 'org.apache.kafka.common.security.plain.PlainLoginModule required user_alice="open sesame";'
SCRAM_LOGIN = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
USERS = {"alice": "SCRAM-SHA-512", "bob": "SCRAM-SHA-256"}
MECHANISMS = tuple(USERS.values())


class Secured:
    """The addresses of a Kafka with listeners of every kind, and the authority that signed its certificates.

    ``tls``: TLS alone; ``other``: the same with a certificate for another host; ``mutual``: it asks for a certificate of ours;
    ``sasl``: PLAIN without TLS; ``scram``: SCRAM over TLS.
    """

    def __init__(self, folder: Path) -> None:
        self.tls, self.other, self.mutual, self.sasl, self.scram = (f"127.0.0.1:{free_port()}" for _ in range(5))
        self.ca_file, self.certificate_file, self.key_file = folder / "ca.pem", folder / "client.pem", folder / "client.key"
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.ca_file)
        client = authority.issue_cert("tidewatch.example.org")
        client.cert_chain_pems[0].write_to_path(self.certificate_file)
        client.private_key_pem.write_to_path(self.key_file)
        ours, others = _keystore(authority, folder / "server.pem"), _keystore(authority, folder / "o.pem", "kafka.example.org")
        stores = {"secure": ours, "mutual": ours, "scram": ours, "other": others}
        listeners = {"SECURE": self.tls, "OTHER": self.other, "MUTUAL": self.mutual, "LOGIN": self.sasl, "SCRAM": self.scram}
        protocols = {"SECURE": "SSL", "OTHER": "SSL", "MUTUAL": "SSL", "LOGIN": "SASL_PLAINTEXT", "SCRAM": "SASL_SSL"}
        protocols |= {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT"}
        self.stack = LocalStack(
            folder / "stack",
            kafka_listeners=listeners,
            kafka_settings={
                "listener.security.protocol.map": ",".join(f"{name}:{kind}" for name, kind in protocols.items()),
                **{f"listener.name.{name}.ssl.keystore.type": "PEM" for name in stores},
                **{f"listener.name.{name}.ssl.keystore.location": str(path) for name, path in stores.items()},
                "listener.name.mutual.ssl.client.auth": "required",
                "listener.name.mutual.ssl.truststore.type": "PEM",
                "listener.name.mutual.ssl.truststore.location": str(self.ca_file),
                "sasl.enabled.mechanisms": "PLAIN",
                "listener.name.login.sasl.enabled.mechanisms": "PLAIN",
                "listener.name.login.plain.sasl.jaas.config": PLAIN_LOGIN,
                "listener.name.scram.sasl.enabled.mechanisms": ",".join(MECHANISMS),
                **{f"listener.name.scram.{name.lower()}.sasl.jaas.config": SCRAM_LOGIN for name in MECHANISMS},
            },
        )

    def start(self) -> None:
        """Start Kafka and tell it of its users: a name for each mechanism."""
        self.stack.start_kafka()
        tool = Kafka(self.stack.state_dir / "kafka", jars.install()["kafka"], 0, 0)
        for user, mechanism in USERS.items():
            where = ("--bootstrap-server", self.stack.kafka_servers, "--entity-type", "users", "--entity-name", user)
            tool.tool("kafka.admin.ConfigCommand", *where, "--alter", "--add-config", f"{mechanism}=[password=open sesame]")


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, kafka_servers: str) -> Iterator[Secured]:
    made = Secured(tmp_path_factory.mktemp("secured"))
    try:
        made.start()
        yield made
    finally:
        made.stack.down()


def settings(servers: str, **told: Any) -> KafkaSettings:
    return kafka_settings(servers, **{"connect_timeout_seconds": 20.0, **told}).kafka


async def test_the_right_password_and_authority_work(secured: Secured) -> None:
    login = {"security_protocol": "SASL_PLAINTEXT", "username": "alice", "password": "open sesame"}
    assert {one.outcome for one in await create_topics(settings(secured.sasl, **login))} == {"created"}
    tls = settings(secured.tls, security_protocol="SSL", ca_file=secured.ca_file)
    assert {one.outcome for one in await create_topics(tls)} == {"created"}


@pytest.mark.parametrize("user", USERS)
async def test_samples_pass_through_over_tls_with_scram(secured: Secured, user: str, tmp_path: Path) -> None:
    """Publisher, group, transactions, the admin client: all of them, with the password in a file."""
    (tmp_path / "password").write_text("open sesame\n")
    login: dict[str, Any] = {"username": user, "password_file": tmp_path / "password", "sasl_mechanism": USERS[user]}
    told = kafka_settings(secured.scram, security_protocol="SASL_SSL", ca_file=secured.ca_file, **login)
    await create_topics(told.kafka)
    worker = await Worker(told, window=5).start()
    publisher = MetricsPublisher(told.kafka)
    await publisher.start()
    try:
        await publisher.publish([message("host-1", row) for row in range(10)])
        await publisher.publish([MetricsMessage("host-1", b"garbage")])
        await worker.until(lambda: worker.consumed == 11)
    finally:
        await publisher.close()
        await worker.stop()
    assert worker.due == [("host-1", row) for row in range(4, 10)]
    (letter,) = await read_all(secured.stack.kafka_servers, told.kafka.topics.dead_letter)
    assert letter.value == b"garbage"


async def test_a_certificate_of_ours_is_shown_where_it_is_asked_for(secured: Secured) -> None:
    ours = {"certificate_file": secured.certificate_file, "key_file": secured.key_file}
    shown = settings(secured.mutual, security_protocol="SSL", ca_file=secured.ca_file, **ours)
    assert {one.outcome for one in await create_topics(shown)} == {"created"}
    without = settings(secured.mutual, security_protocol="SSL", ca_file=secured.ca_file, connect_timeout_seconds=2.0)
    with pytest.raises(BrokerUnavailable):
        await create_topics(without)


async def test_scram_with_a_wrong_password_or_user_is_told_at_once(secured: Secured) -> None:
    over_tls = {"security_protocol": "SASL_SSL", "ca_file": secured.ca_file, "sasl_mechanism": "SCRAM-SHA-512"}
    for user, password in (("alice", "guess"), ("mallory", "open sesame")):
        with pytest.raises(ConfigError, match=f"refuses the credentials of user '{user}'") as error:
            await create_topics(settings(secured.scram, username=user, password=password, **over_tls))
        assert password not in str(error.value) + error.value.hint


async def test_a_certificate_for_another_host_is_told_at_once(secured: Secured) -> None:
    with pytest.raises(ConfigError, match=r"is not trusted: .*127\.0\.0\.1"):
        await create_topics(settings(secured.other, security_protocol="SSL", ca_file=secured.ca_file))


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
