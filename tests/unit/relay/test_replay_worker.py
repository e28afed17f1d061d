"""When the replay worker drops its producer, and how it finds the event that a topic refuses."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from services.relay.domain.events import EventsRefused, OutboxEvent
from services.relay.kafka.admin import Broker
from services.relay.kafka.client import BrokerFailed
from services.relay.replay import store as replay_store
from services.relay.replay import worker
from services.relay.replay.store import Replay, Selection, Window
from services.relay.replay.worker import ReplayWorker
from services.relay.settings import RelaySettings

EVENT = OutboxEvent(7, "event-7", "order-3", 1, "order.paid.v1", b"{}", None, datetime(2026, 1, 1, tzinfo=UTC))
WINDOW = Window([EVENT], 7)
REPLAY = Replay(UUID(int=1), "orders.v1-again", Selection(), up_to=9, position=0)


class Producer:
    """A fake producer that refuses every batch while `refuses` is set."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.refuses = False
        self.dropped = False
        self.one_by_one: list[bool] = []

    async def open(self) -> None: ...

    async def publish(self, *_: Any, one_by_one: bool) -> None:
        self.one_by_one.append(one_by_one)
        if self.refuses:
            raise EventsRefused("INVALID_RECORD", [[EVENT]], too_large=False)

    async def drop(self) -> None:
        self.dropped = True


class Pool:
    """Stands in for a pool whose connections nobody uses."""

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[None]:
        yield


@pytest.fixture
async def replayer(monkeypatch: pytest.MonkeyPatch) -> Any:
    async def declare(_: str) -> None: ...

    monkeypatch.setattr(worker, "EventProducer", Producer)
    settings = RelaySettings(database_url="postgresql://nowhere", kafka_bootstrap_servers="nowhere:1")
    broker, pool = Broker(settings), Pool()
    monkeypatch.setattr(broker, "declare", declare)
    replayer: Any = ReplayWorker(settings, pool, broker)  # type: ignore[arg-type] # a fake
    replayer._leadership.certain_until = asyncio.get_running_loop().time() + 60
    return replayer


@pytest.fixture
def failures(replayer: Any) -> list[str]:
    failures: list[str] = []

    async def fail(_: Replay, failure: str) -> None:
        failures.append(failure)

    replayer._fail = fail
    return failures


async def opened(replayer: Any, *, refuses: bool = False) -> Producer:
    producer: Producer = await replayer._open(REPLAY)
    producer.refuses = refuses
    return producer


async def test_refused_step_is_published_again_one_by_one_and_then_fails_the_replay(
    replayer: Any, failures: list[str]
) -> None:
    together = await opened(replayer, refuses=True)
    assert not await replayer._publish(REPLAY, WINDOW)
    assert (together.one_by_one, together.dropped, failures) == ([False], True, [])
    single = await opened(replayer, refuses=True)
    assert not await replayer._publish(REPLAY, WINDOW)
    assert (single.one_by_one, single.dropped) == ([True], True)
    assert failures == ["event event-7 of order order-3: INVALID_RECORD"]
    after = await opened(replayer)
    assert await replayer._publish(REPLAY, WINDOW)
    assert after.one_by_one == [False], "another replay, at its full rate"


async def test_step_after_a_successful_one_is_published_together_again(replayer: Any, failures: list[str]) -> None:
    await opened(replayer, refuses=True)
    await replayer._publish(REPLAY, WINDOW)
    producer = await opened(replayer)
    for _ in range(2):
        assert await replayer._publish(REPLAY, WINDOW)
    assert producer.one_by_one == [True, False]
    assert failures == []


async def test_producer_of_a_failed_step_is_dropped(replayer: Any) -> None:
    async def step() -> float:
        raise BrokerFailed("timed out")

    producer = await opened(replayer)
    replayer._step = step
    with pytest.raises(BrokerFailed):
        await replayer._round()
    assert producer.dropped


@pytest.mark.parametrize("replay", [None, REPLAY], ids=["no replay", "no leadership"])
async def test_producer_is_dropped_without_a_replay_or_the_leadership(
    replayer: Any, monkeypatch: pytest.MonkeyPatch, replay: Replay | None
) -> None:
    async def next_replay(_: Any) -> Replay | None:
        return replay

    async def renew(*_: Any) -> bool:
        return False

    monkeypatch.setattr(replay_store, "next_replay", next_replay)
    replayer._leadership.renew = renew
    producer = await opened(replayer)
    await replayer._step()
    assert producer.dropped


async def test_producer_of_the_previous_replay_is_dropped(replayer: Any) -> None:
    producer = await opened(replayer)
    assert await replayer._open(REPLAY) is producer
    other = Replay(UUID(int=2), "orders.v1-other", Selection(), up_to=9, position=0)
    assert await replayer._open(other) is not producer
    assert producer.dropped


async def test_producer_that_could_not_be_opened_is_dropped(replayer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(producer: Producer) -> None:
        made.append(producer)
        raise BrokerFailed("no broker")

    async def step() -> float:
        await replayer._open(REPLAY)
        return 0.0

    made: list[Producer] = []
    monkeypatch.setattr(Producer, "open", fail)
    replayer._step = step
    with pytest.raises(BrokerFailed):
        await replayer._round()
    assert [producer.dropped for producer in made] == [True]
