"""With the rules of deploy/kafka/access.sh, relay and consumer work, and everybody can do only what they must."""

import asyncio
import os
import random
import stat
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclBinding, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType
from confluent_kafka.cimpl import NewTopic

from tests.infrastructure.databases import Database
from tests.infrastructure.own_broker import OwnBroker
from tests.infrastructure.pipeline import Pipeline
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import free_port
from tests.integration.consumer.platform import an_order, platform, publish, relaying
from tests.integration.relay.rights import MAY, PASSWORD, USERS, Cluster, acts, answer

FOLDER = Path(__file__).parents[3] / "deploy" / "kafka"
SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
RECORDS = '#!/bin/sh\nprintf "%s\\n" "$(basename "$0")" "$@" "" >>"$RECORD"\n'


@pytest.fixture(scope="module")
def cluster(reaper: Reaper, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    subprocess.run(["bash", FOLDER / "certificates.sh", folder], check=True, capture_output=True)
    there = f"USERS://127.0.0.1:{free_port()}"
    properties = {
        "listeners": there,
        "advertised.listeners": there,
        "listener.security.protocol.map": "USERS:SASL_SSL",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(folder / "broker" / "kafka.pem"),
        "listener.name.users.sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.users.scram-sha-512.sasl.jaas.config": SCRAM,
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",  # the listener without TLS stands for the brokers' own
        "allow.everyone.if.no.acl.found": "false",
    }
    secrets = [f'SCRAM-SHA-512=[name={user},password="{PASSWORD}"]' for user in USERS]
    broker = OwnBroker(reaper, properties, [word for secret in secrets for word in ("--add-scram", secret)])
    broker.start()
    password = folder / "password"
    password.write_text(f"{PASSWORD}\n")
    yield Cluster(there.partition("://")[2], broker.address, folder / "public" / "ca.pem", password)
    broker.kill()


def tool_calls(folder: Path, *arguments: str, **environment: str) -> list[list[str]]:
    """Run access.sh with tools that only record how they are called; return the calls."""
    folder.mkdir(exist_ok=True)
    for name in ("kafka-acls.sh", "kafka-configs.sh"):
        tool = folder / name
        tool.write_text(RECORDS)
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    record = folder / "record"
    variables = {"PATH": f"{folder}:{os.environ['PATH']}", "RECORD": str(record), "SERVER": "x:1", "CONFIG": "c"}
    command = ["bash", str(FOLDER / "access.sh"), *arguments]
    subprocess.run(command, env=variables | environment, check=True, capture_output=True)
    return [call.splitlines() for call in record.read_text().split("\n\n") if call]


KINDS = {
    "--topic": ResourceType.TOPIC,
    "--group": ResourceType.GROUP,
    "--transactional-id": ResourceType.TRANSACTIONAL_ID,
}
OPERATIONS = {
    "Create": AclOperation.CREATE,
    "Describe": AclOperation.DESCRIBE,
    "DescribeConfigs": AclOperation.DESCRIBE_CONFIGS,
    "Write": AclOperation.WRITE,
    "Read": AclOperation.READ,
}


def bindings(call: list[str]) -> list[AclBinding]:
    """Return what a call of kafka-acls.sh adds."""
    assert call[:6] == ["kafka-acls.sh", "--bootstrap-server", "x:1", "--command-config", "c", "--add"]
    pairs = list(zip(call[6::2], call[7::2], strict=True))
    options = dict(pairs)
    prefixed = options.get("--resource-pattern-type") == "prefixed"
    pattern = ResourcePatternType.PREFIXED if prefixed else ResourcePatternType.LITERAL
    return [
        AclBinding(KINDS[kind], name, pattern, options["--allow-principal"], "*", OPERATIONS[operation], allowed)
        for allowed in [AclPermissionType.ALLOW]
        for kind, name in pairs
        if kind in KINDS
        for option, operation in pairs
        if option == "--operation"
    ]


@pytest.fixture
async def ruled(pipeline: Pipeline, cluster: Cluster, tmp_path: Path) -> Pipeline:
    """Return a pipeline through the cluster, whose topics have the rules of access.sh."""
    calls = tool_calls(tmp_path / "tools", "rights", TOPIC=pipeline.topic, GROUP=pipeline.topic)
    replay = ("replay", f"{pipeline.topic}-for-consumer", "consumer")
    calls += tool_calls(tmp_path / "tools of a replay", *replay, TOPIC=pipeline.topic)
    admin = AdminClient({"bootstrap.servers": cluster.inside, "log_level": 0})
    for added in admin.create_acls([binding for call in calls for binding in bindings(call)]).values():
        await asyncio.to_thread(added.result, 10)
    return replace(pipeline, kafka=cluster.address)


@pytest.fixture
async def prepared(ruled: Pipeline, cluster: Cluster) -> Pipeline:
    """Return the pipeline, with a record on each topic."""
    suffixes = ("", ".watermarks", ".positions", "-for-consumer", "-for-another")
    names = [f"{ruled.topic}{suffix}" for suffix in suffixes]
    admin = AdminClient({"bootstrap.servers": cluster.inside, "log_level": 0})
    missing = {*names, "others"} - set(admin.list_topics(timeout=10).topics)
    for created in admin.create_topics([NewTopic(name, 1, 1) for name in sorted(missing)]).values():
        await asyncio.to_thread(created.result, 10)
    producer = Producer({"bootstrap.servers": cluster.inside, "log_level": 0})
    for name in (*names, "others"):
        producer.produce(name, b"x")
    assert await asyncio.to_thread(producer.flush, 10) == 0
    return ruled


async def test_users_can_do_what_access_sh_allows_and_nothing_else(prepared: Pipeline, cluster: Cluster) -> None:
    tried = {(user, name): act for user in USERS for name, act in acts(cluster, user, prepared.topic).items()}
    # At the same time: most of what is refused shows only by the time that passes.
    with ThreadPoolExecutor(len(tried)) as threads:
        loop = asyncio.get_running_loop()
        answers = await asyncio.gather(*(loop.run_in_executor(threads, answer, act) for act in tried.values()))
    can = {one for one, may in zip(tried, answers, strict=True) if may == "yes"}
    assert can == {(user, name) for user, names in MAY.items() for name in names}


async def test_relay_and_consumer_work_with_these_rights(
    ruled: Pipeline,
    cluster: Cluster,
    create_database: Callable[..., Database],
    tmp_path: Path,
    reaper: Reaper,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in cluster.settings("relay").items():
        monkeypatch.setenv(name, value)
    source = random.Random(20260105)
    events = [event for _ in range(5) for event in an_order(source)]
    async with (
        relaying(ruled) as relay_url,
        platform(create_database(), ruled, relay_url, tmp_path, reaper) as there,
    ):
        await publish(ruled, events)
        consumer = there.start(**cluster.settings("consumer"))
        await there.until_equal(events)
        assert (await there.until_proven())["unproven"] == []
        await consumer.stop()


@pytest.mark.parametrize("topic", ["orders.v1", "orders.v1.positions", "others-of-billing"])
def test_right_for_a_replay_is_only_on_a_topic_that_the_relay_may_create(tmp_path: Path, topic: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        tool_calls(tmp_path / "tools", "replay", topic, "billing")
    assert refused.value.stderr == b"The name of a replay's topic must begin with orders.v1-\n"
    assert not (tmp_path / "tools" / "record").exists()


def test_password_of_a_user_is_not_an_argument(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("hidden\n")
    (call,) = tool_calls(tmp_path / "tools", "user", "relay", str(file))
    assert "hidden" not in " ".join(call)
    assert call[:10] == [
        *("kafka-configs.sh", "--bootstrap-server", "x:1", "--command-config", "c", "--alter"),
        *("--entity-type", "users", "--entity-name", "relay"),
    ]
