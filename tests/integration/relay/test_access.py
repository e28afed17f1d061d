"""The relay publishes through TLS and SASL, only with the right authority and password."""

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclBinding, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType

from services.relay.kafka.admin import Broker
from services.relay.kafka.client import BrokerFailed
from tests.infrastructure.own_broker import OwnBroker
from tests.infrastructure.pipeline import Event, Pipeline, expected, identity, order_in, write
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import free_port

NAME, PASSWORD = "relay", "the relay's own"
PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"
SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required"
PROTOCOLS = {"SASL": "SASL_PLAINTEXT", "TLS": "SSL", "BOTH": "SASL_SSL"}


class Authority:
    """Create a certificate authority, and a broker's certificate signed by it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = self._authority("ca")
        self.other = self._authority("other")
        names = folder / "names"
        names.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        self._openssl("genpkey", "-algorithm", "RSA", "-out", "broker.key")
        self._openssl("req", "-new", "-key", "broker.key", "-subj", "/CN=broker", "-out", "broker.csr")
        self._openssl(
            *("x509", "-req", "-in", "broker.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
            *("-days", "2", "-extfile", "names", "-out", "broker.pem"),
        )
        self.keystore = folder / "keystore.pem"
        self.keystore.write_text((folder / "broker.key").read_text() + (folder / "broker.pem").read_text())

    def _authority(self, name: str) -> Path:
        self._openssl(
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"),
            *("-keyout", f"{name}.key", "-out", f"{name}.pem"),
        )
        return self.folder / f"{name}.pem"

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def addresses(reaper: Reaper, authority: Authority) -> Iterator[dict[str, str]]:
    """Return a real broker's address for each protocol."""
    ports = {listener: free_port() for listener in PROTOCOLS}
    there = ",".join(f"{listener}://127.0.0.1:{port}" for listener, port in ports.items())
    properties = {
        "listeners": there,
        "advertised.listeners": there,
        "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in PROTOCOLS.items()),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(authority.keystore),
    }
    for name in ("sasl", "both"):
        properties |= {
            f"listener.name.{name}.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
            f"listener.name.{name}.plain.sasl.jaas.config": f'{PLAIN} user_{NAME}="{PASSWORD}";',
            f"listener.name.{name}.scram-sha-256.sasl.jaas.config": f"{SCRAM};",
            f"listener.name.{name}.scram-sha-512.sasl.jaas.config": f"{SCRAM};",
        }
    # Clients on PLAINTEXT may do everything; a topic without rules is open to all.
    properties |= {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "allow.everyone.if.no.acl.found": "true",
    }
    secrets = [f'SCRAM-SHA-{bits}=[name={NAME},password="{PASSWORD}"]' for bits in (256, 512)]
    broker = OwnBroker(reaper, properties, [word for secret in secrets for word in ("--add-scram", secret)])
    broker.start()
    yield {PROTOCOLS[name]: f"127.0.0.1:{port}" for name, port in ports.items()} | {"PLAINTEXT": broker.address}
    broker.kill()


def options(protocol: str, authority: Authority, **changes: Any) -> dict[str, Any]:
    """Return the settings that the broker requires for this protocol."""
    values: dict[str, Any] = {"kafka_security_protocol": protocol}
    if protocol.startswith("SASL"):
        values |= {"kafka_sasl_mechanism": "SCRAM-SHA-512", "kafka_sasl_username": NAME}
        values |= {"kafka_sasl_password": PASSWORD}
    if protocol.endswith("SSL"):
        values |= {"kafka_ssl_ca_file": authority.file}
    return values | changes


@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SSL", "SASL_SSL"])
async def test_events_are_published_with_each_protocol(
    pipeline: Pipeline, addresses: dict[str, str], authority: Authority, protocol: str
) -> None:
    here, outside = (replace(pipeline, kafka=addresses[name]) for name in (protocol, "PLAINTEXT"))
    events = [Event(order_in(shard), 1) for shard in range(4)]
    async with here.relay(**options(protocol, authority)):
        await write(pipeline.connection, events)
        await pipeline.until_sent(4)
    async with outside.reader() as reader:
        assert sorted(map(identity, await reader.to_the_end())) == sorted(expected(events))


async def test_relay_without_right_to_topic_settings_publishes_and_reports_a_doubt(
    pipeline: Pipeline, addresses: dict[str, str], authority: Authority
) -> None:
    protocol = "SASL_PLAINTEXT"
    here = replace(pipeline, kafka=addresses[protocol])
    admin = AdminClient({"bootstrap.servers": addresses["PLAINTEXT"], "log_level": 0})
    rules = [
        AclBinding(
            *(ResourceType.TOPIC, here.topic, ResourcePatternType.PREFIXED, f"User:{NAME}", "*"),
            *(operation, AclPermissionType.ALLOW),
        )
        for operation in (AclOperation.READ, AclOperation.WRITE, AclOperation.DESCRIBE, AclOperation.CREATE)
    ]
    for answer in admin.create_acls(rules).values():
        answer.result(10)
    async with here.relay(**options(protocol, authority)) as relay:
        await write(pipeline.connection, [Event(order_in(shard), 1) for shard in range(4)])
        await pipeline.until_sent(4)
        assert relay.broker.view.refused is None
        assert f"the settings of {here.topic} can't be read" in " ".join(relay.broker.view.doubts)


async def let_in(pipeline: Pipeline, address: str, **settings: Any) -> None:
    """Raise BrokerFailed unless the broker answers."""
    broker = Broker(replace(pipeline, kafka=address).settings(**settings))
    try:
        await broker.check()
    finally:
        await broker.close()


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_each_mechanism_accepts_the_password_from_a_file_and_no_other(
    pipeline: Pipeline, addresses: dict[str, str], authority: Authority, tmp_path: Path, mechanism: str
) -> None:
    protocol = "SASL_PLAINTEXT"
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD}\n")
    settings = options(protocol, authority, kafka_sasl_mechanism=mechanism)
    del settings["kafka_sasl_password"]
    await let_in(pipeline, addresses[protocol], kafka_sasl_password_file=file, **settings)
    file.write_text("another")
    with pytest.raises(BrokerFailed):
        await let_in(pipeline, addresses[protocol], kafka_sasl_password_file=file, **settings)


async def test_broker_of_another_authority_is_not_trusted(
    pipeline: Pipeline, addresses: dict[str, str], authority: Authority
) -> None:
    with pytest.raises(BrokerFailed):
        await let_in(pipeline, addresses["SSL"], **options("SSL", authority, kafka_ssl_ca_file=authority.other))
