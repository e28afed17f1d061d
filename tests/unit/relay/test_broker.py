"""Clients of Kafka are stopped to the end, and for no longer than there is patience for."""

import asyncio

import pytest

from services.relay import broker
from services.relay.broker import stopped


class Client:
    """Takes its time to stop."""

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


async def test_clients_are_closed_when_whoever_stops_them_is_cancelled_meanwhile() -> None:
    clients = Client(), Client(steps=5)
    task = asyncio.create_task(stopped(*clients))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [client.closed for client in clients] == [True, True]


async def test_what_hangs_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "STOP_SECONDS", 0.01)
    await stopped(Hanging())


async def test_one_that_fails_leaves_no_other_half_closed() -> None:
    client = Client(steps=20)
    await stopped(Broken(), client)
    assert client.closed
    await stopped()
