"""A host's clock that is wrong: no wrong refusal, nothing is started or forgotten, and /readyz names the clock."""

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from services.product.settings import Settings as ProductSettings
from shared import host_clock
from shared.host_clock import ClocksDisagree
from shared.postgres import Pool
from shared.pruning import Pruner, Pruning
from tests.infrastructure.checkout import World, checkout
from tests.infrastructure.databases import Database
from tests.infrastructure.services import Client, migrate_service, serving
from tests.infrastructure.waiting import eventually

PATIENCE_SECONDS = 10
DAY_SECONDS = 86_400
RETENTION = "UPDATE products.horizon SET pruned_before = products.first_id_after(now() - interval '90 days')"


class Clock:
    """This process' time of day, off by so many seconds."""

    def __init__(self) -> None:
        self.off_seconds = 0.0

    def time(self) -> float:
        return time.clock_gettime(time.CLOCK_REALTIME) + self.off_seconds

    def time_ns(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_REALTIME) + int(self.off_seconds * 1e9)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """The clock of this process, for everything in it."""
    off = Clock()
    monkeypatch.setattr(time, "time", off.time)
    monkeypatch.setattr(time, "time_ns", off.time_ns)
    yield off
    monkeypatch.undo()


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    """The order service and its participants; they remember 90 days."""
    async with checkout(database) as world:
        await world.db.execute(RETENTION)
        yield world


async def something_to_buy(world: World) -> dict[str, Any]:
    """An order that can be placed."""
    user, product = f"user-{uuid4()}", f"product-{uuid4()}"
    await world.shop.product.post("/v1/products", {"product_id": product, "name": "Thing", "price": 100, "stock": 5})
    await world.shop.balance.post(f"/v1/accounts/{user}/charges", {"amount": 1000})
    return {"user_id": user, "lines": [{"product_id": product, "quantity": 1}]}


def key() -> dict[str, str]:
    return {"Idempotency-Key": str(uuid4())}


async def until_the_clock_is(client: Client, state: str) -> str:
    """What /readyz says of the clock, once it says so."""

    async def said() -> str | None:
        body = (await client.call("GET", "/readyz")).body
        assert (body["status"] == "ready") == (body["checks"]["clock"] == "ok"), body
        return str(body["checks"]["clock"]) if state in body["checks"]["clock"] else None

    return str(await eventually(said, PATIENCE_SECONDS, f"a clock that is {state}"))


@pytest.mark.parametrize("days", [-100, 100])
async def test_while_the_clocks_disagree_nothing_is_started_and_no_refusal_is_stored(
    world: World, clock: Clock, days: int
) -> None:
    order, first, second = await something_to_buy(world), key(), key()
    client = world.shop.order
    later = await client.post("/v1/orders", {**order, "payment": "later"})
    clock.off_seconds = days * DAY_SECONDS
    told = await until_the_clock_is(client, "behind" if days < 0 else "ahead of")
    assert told.startswith("ClocksDisagree: this host's clock is 8640000 s")
    calls = {"/v1/orders": (order, first), f"/v1/orders/{later['order_id']}/payment": ({}, second)}
    for path, (body, headers) in calls.items():
        answer = await client.call("POST", path, body, headers=headers)
        assert (answer.status, answer.problem, answer.headers["Retry-After"]) == (503, "unavailable", "1")
    assert (await client.get(f"/v1/orders/{later['order_id']}"))["status"] == "PENDING_PAYMENT"
    clock.off_seconds = 0
    await until_the_clock_is(client, "ok")
    for path, (body, headers) in calls.items():
        assert (await client.post(path, body, headers=headers))["status"] == "PAID"


@pytest.mark.parametrize("days", [-100, 100])
async def test_an_order_that_comes_before_a_leap_of_the_clock_is_noticed_is_placed(
    world: World, clock: Clock, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    monkeypatch.setattr(host_clock, "SKEW_MAX_SECONDS", float("inf"))  # it has not been noticed yet
    order = await something_to_buy(world)
    clock.off_seconds = days * DAY_SECONDS
    placed = await world.shop.order.post("/v1/orders", order, headers=key())
    assert placed["status"] == "PAID"
    age = "SELECT abs(extract(epoch FROM now() - created_at)) FROM orders.orders WHERE order_id = $1"
    assert await world.value(age, UUID(placed["order_id"])) < PATIENCE_SECONDS
    now = await world.value("SELECT extract(epoch FROM now())")
    assert abs((UUID(placed["order_id"]).int >> 80) / 1000 - float(now)) < PATIENCE_SECONDS


async def test_orders_do_not_expire_while_the_clocks_disagree(world: World, clock: Clock) -> None:
    order = await something_to_buy(world)
    client = world.shop.order
    later = await client.post("/v1/orders", {**order, "payment": "later"})
    clock.off_seconds = -100 * DAY_SECONDS  # or the database's is ahead by as much
    await until_the_clock_is(client, "behind")
    expire = "UPDATE orders.orders SET expires_at = clock_timestamp() WHERE order_id = $1"
    await world.db.execute(expire, UUID(later["order_id"]))
    for _ in range(3):  # some looks of the scheduler, which are 0.1 s apart
        await until_the_clock_is(client, "behind")
    assert (await client.get(f"/v1/orders/{later['order_id']}"))["status"] == "PENDING_PAYMENT"
    clock.off_seconds = 0

    async def expired() -> bool:
        return bool((await client.get(f"/v1/orders/{later['order_id']}"))["status"] == "EXPIRED")

    await eventually(expired, PATIENCE_SECONDS, "an expired order")


@pytest.mark.parametrize("name", ["product", "coupon", "balance"])
async def test_a_participant_s_readiness_names_the_clock_and_it_serves_on(
    database: Database, clock: Clock, name: str
) -> None:
    async with serving(name, migrate_service(name, database)) as client:
        await until_the_clock_is(client, "ok")
        clock.off_seconds = 3600
        await until_the_clock_is(client, "ahead of")
        assert (await client.get("/internal/v1/books")) is not None


async def test_nothing_is_forgotten_while_the_clocks_disagree(database: Database, clock: Clock) -> None:
    async def never(*_: Any) -> Any:
        raise AssertionError

    settings = ProductSettings(database_url=migrate_service("product", database))
    async with Pool(settings, "pruner") as pool:
        pruner = Pruner(pool, [Pruning("gates", UUID(int=0), never)], before=never)
        clock.off_seconds = -3600
        with pytest.raises(ClocksDisagree):
            await pruner.prune_all()
        clock.off_seconds = 0
        with pytest.raises(AssertionError):
            await pruner.prune_all()
