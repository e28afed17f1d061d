"""None of our clients makes a broker create a topic, and other clients of the library are unchanged."""

import asyncio
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from shared.kafka import KafkaAdmin, KafkaConsumer, KafkaProducer

METADATA, API_VERSIONS = 3, 18
UNKNOWN_TOPIC = 3


class Broker:
    """A broker without topics that records whether a request would create one."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[tuple[list[str], bool]] = asyncio.Queue()
        self.address = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                (length,) = struct.unpack(">i", await reader.readexactly(4))
                request = await reader.readexactly(length)
                answer = request[4:8] + self._answer(request)
                writer.write(struct.pack(">i", len(answer)) + answer)
        except asyncio.IncompleteReadError:
            writer.close()

    def _answer(self, request: bytes) -> bytes:
        api, _, _, client_id = struct.unpack_from(">hhih", request)
        if api == API_VERSIONS:
            versions = ((METADATA, 0, 5), (API_VERSIONS, 0, 0))
            return struct.pack(">hi", 0, len(versions)) + b"".join(struct.pack(">hhh", *each) for each in versions)
        assert api == METADATA
        topics, create = self._topics(request[10 + client_id :])
        if topics:
            self.asked.put_nowait((topics, create))
        host, _, port = self.address.rpartition(":")
        broker = struct.pack(">ii", 1, 1) + text(host) + struct.pack(">ih", int(port), -1)
        head = struct.pack(">i", 0) + broker + text("cluster") + struct.pack(">ii", 1, len(topics))
        return head + b"".join(
            struct.pack(">h", UNKNOWN_TOPIC) + text(topic) + struct.pack(">bi", 0, 0) for topic in topics
        )

    @staticmethod
    def _topics(body: bytes) -> tuple[list[str], bool]:
        (count,), at, topics = struct.unpack_from(">i", body), 4, []
        for _ in range(max(0, count)):
            (length,) = struct.unpack_from(">h", body, at)
            topics.append(body[at + 2 : at + 2 + length].decode())
            at += 2 + length
        return topics, bool(body[at])


def text(value: str) -> bytes:
    return struct.pack(">h", len(value)) + value.encode()


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    broker = Broker()
    server = await asyncio.start_server(broker.serve, "127.0.0.1", 0)
    broker.address = "{}:{}".format(*server.sockets[0].getsockname())
    yield broker
    server.close()


async def asked(broker: Broker, client: Any, work: Any) -> bool:
    """Return whether the client requested the topic in a way that may create it."""
    await client.start()
    try:
        task = asyncio.create_task(work())
        topics, create = await asyncio.wait_for(broker.asked.get(), 10)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    finally:
        await client.stop() if hasattr(client, "stop") else await client.close()
    assert topics == ["orders.v1"]
    return create


async def test_a_producer_has_no_topic_created(broker: Broker) -> None:
    producer = KafkaProducer(bootstrap_servers=broker.address)
    assert not await asked(broker, producer, lambda: producer.partitions_for("orders.v1"))


async def test_a_consumer_has_no_topic_created(broker: Broker) -> None:
    consumer = KafkaConsumer(bootstrap_servers=broker.address)

    async def subscribe() -> None:
        consumer.subscribe(["orders.v1"])

    assert not await asked(broker, consumer, subscribe)


async def test_admin_client_creates_no_topic_by_describing_it(broker: Broker) -> None:
    admin = KafkaAdmin(bootstrap_servers=broker.address)
    assert not await asked(broker, admin, lambda: admin.describe_topics(["orders.v1"]))
    admin = KafkaAdmin(bootstrap_servers=broker.address)
    assert await asked(broker, admin, lambda: admin.create_by_asking(["orders.v1"]))


async def test_unrelated_client_in_the_same_process_keeps_its_behaviour(broker: Broker) -> None:
    ours = KafkaConsumer(bootstrap_servers=broker.address)
    await ours.start()
    theirs = AIOKafkaConsumer(bootstrap_servers=broker.address)

    async def subscribe() -> None:
        theirs.subscribe(["orders.v1"])

    assert await asked(broker, theirs, subscribe)
    await ours.stop()


@pytest.mark.parametrize(
    ("make", "base", "end"),
    [
        (KafkaProducer, AIOKafkaProducer, "stop"),
        (KafkaConsumer, AIOKafkaConsumer, "stop"),
        (KafkaAdmin, AIOKafkaAdminClient, "close"),
    ],
)
async def test_client_whose_stop_is_cut_off_leaves_no_connection_open(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, make: Any, base: type, end: str
) -> None:
    client = make(bootstrap_servers=broker.address)
    await client.start()
    own = client.client if make is KafkaProducer else client._client
    await own.ready(1)
    (connection,) = own._conns.values()
    sync_task = own._sync_task

    async def hang(_: Any) -> None:
        await asyncio.Event().wait()

    with monkeypatch.context() as patched:
        patched.setattr(base, end, hang)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(getattr(client, end)(), 0.1)
    await asyncio.gather(sync_task, return_exceptions=True)
    assert not connection.connected()
    assert not any(one.connected() for one in own._conns.values())
    await getattr(client, end)()  # what the library has beside it


async def test_producer_without_transactions_can_be_abandoned(broker: Broker) -> None:
    producer = KafkaProducer(bootstrap_servers=broker.address)
    await producer.start()
    await producer.abandon()
    await producer.stop()
