"""Kafka's clients leave no connection open when their start is cancelled, and stop within a time limit."""

import asyncio
import struct

import pytest

from services.relay.kafka import client as clients
from services.relay.kafka.client import BrokerFailed, bounded, stopped
from shared.kafka import KafkaConsumer


class Client:
    """A client that takes long to stop."""

    def __init__(self, steps: int = 3) -> None:
        self.steps = steps
        self.closed = False

    async def stop(self) -> None:
        for _ in range(self.steps):
            await asyncio.sleep(0)
        self.closed = True


class Hanging:
    async def stop(self) -> None:
        await asyncio.Event().wait()


class Broken:
    async def stop(self) -> None:
        raise AssertionError


async def test_clients_are_closed_even_if_their_stop_is_cancelled() -> None:
    clients = Client(), Client(steps=5)
    task = asyncio.create_task(stopped(*clients))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [client.closed for client in clients] == [True, True]


async def test_hanging_client_does_not_delay_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "STOP_SECONDS", 0.01)
    await stopped(Hanging())


async def test_client_that_fails_to_stop_leaves_no_other_open() -> None:
    client = Client(steps=20)
    await stopped(Broken(), client)
    assert client.closed
    await stopped()


class HalfABroker:
    """A broker that reports its versions, and answers no other request."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.left = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        correlation = (await self._request(reader))[4:8]
        metadata, versions = 3, 18
        known = b"".join(struct.pack(">hhh", key, 0, 1) for key in (metadata, versions))
        answer = correlation + struct.pack(">hi", 0, 2) + known
        writer.write(struct.pack(">i", len(answer)) + answer)
        await self._request(reader)
        self.asked.set()
        await reader.read(-1)
        self.left.set()
        writer.close()

    @staticmethod
    async def _request(reader: asyncio.StreamReader) -> bytes:
        (length,) = struct.unpack(">i", await reader.readexactly(4))
        return await reader.readexactly(length)


async def test_cancelled_start_closes_what_it_opened() -> None:
    half = HalfABroker()
    server = await asyncio.start_server(half.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    consumer = KafkaConsumer(bootstrap_servers=f"{host}:{port}")
    starting = asyncio.create_task(consumer.start())
    await asyncio.wait_for(half.asked.wait(), 10)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await asyncio.wait_for(half.left.wait(), 10)
    await stopped(consumer)
    server.close()


@pytest.mark.parametrize("error", [AssertionError(), AttributeError("x"), OSError("gone"), TimeoutError()], ids=repr)
async def test_any_error_of_a_client_is_a_failure_of_the_broker(error: Exception) -> None:
    with pytest.raises(BrokerFailed):
        async with bounded(10):
            raise error
