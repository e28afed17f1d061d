"""With a wrong host clock, no refusal is wrong, nothing is started or deleted, and /readyz names the clock."""

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from services.product.settings import Settings as ProductSettings
from shared.postgres import clocks
from shared.postgres.clocks import ClocksDisagree
from shared.postgres.connections import Pool
from shared.pruning import Pruner, Pruning
from tests.infrastructure.checkout import Checkout, serving_checkout
from tests.infrastructure.databases import Database
from tests.infrastructure.services import Client, migrate_service, serving
from tests.infrastructure.shopping import an_order_of_a_new_user
from tests.infrastructure.waiting import eventually

PATIENCE_SECONDS = 10
DAY_SECONDS = 86_400
RETENTION = "UPDATE products.horizon SET pruned_before = products.first_id_after(now() - interval '90 days')"


class Clock:
    """This process' time of day, wrong by `off_seconds`."""

    def __init__(self) -> None:
        self.off_seconds = 0.0

    def time(self) -> float:
        return time.clock_gettime(time.CLOCK_REALTIME) + self.off_seconds

    def time_ns(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_REALTIME) + int(self.off_seconds * 1e9)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """Replace the clock of this process."""
    off = Clock()
    monkeypatch.setattr(time, "time", off.time)
    monkeypatch.setattr(time, "time_ns", off.time_ns)
    yield off
    monkeypatch.undo()


@pytest.fixture
async def checkout(database: Database) -> AsyncIterator[Checkout]:
    """Serve the order service and its participants, with a retention of 90 days."""
    async with serving_checkout(database) as checkout:
        await checkout.db.execute(RETENTION)
        yield checkout


def key() -> dict[str, str]:
    return {"Idempotency-Key": str(uuid4())}


async def until_the_clock_is(client: Client, state: str) -> str:
    """Return the clock's check in /readyz, once it has this state."""

    async def said() -> str | None:
        body = (await client.call("GET", "/readyz")).body
        assert (body["status"] == "ready") == (body["checks"]["clock"] == "ok"), body
        return str(body["checks"]["clock"]) if state in body["checks"]["clock"] else None

    return str(await eventually(said, PATIENCE_SECONDS, f"a clock that is {state}"))


@pytest.mark.parametrize("days", [-100, 100])
async def test_no_saga_starts_while_the_clocks_disagree_and_no_refusal_is_stored(
    checkout: Checkout, clock: Clock, days: int
) -> None:
    order, first, second = await an_order_of_a_new_user(checkout.shop), key(), key()
    client = checkout.shop.order
    later = await client.post("/v1/orders", {**order, "payment": "later"})
    clock.off_seconds = days * DAY_SECONDS
    disagreement = await until_the_clock_is(client, "behind" if days < 0 else "ahead of")
    assert disagreement.startswith("ClocksDisagree: this host's clock is 8640000 s")
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
async def test_order_before_a_clock_jump_is_noticed_is_placed(
    checkout: Checkout, clock: Clock, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    monkeypatch.setattr(clocks, "SKEW_MAX_SECONDS", float("inf"))  # the difference has not been noticed yet
    order = await an_order_of_a_new_user(checkout.shop)
    clock.off_seconds = days * DAY_SECONDS
    placed = await checkout.shop.order.post("/v1/orders", order, headers=key())
    assert placed["status"] == "PAID"
    age = "SELECT abs(extract(epoch FROM now() - created_at)) FROM orders.orders WHERE order_id = $1"
    assert await checkout.value(age, UUID(placed["order_id"])) < PATIENCE_SECONDS
    now = await checkout.value("SELECT extract(epoch FROM now())")
    assert abs((UUID(placed["order_id"]).int >> 80) / 1000 - float(now)) < PATIENCE_SECONDS


async def test_orders_do_not_expire_while_the_clocks_disagree(checkout: Checkout, clock: Clock) -> None:
    order = await an_order_of_a_new_user(checkout.shop)
    client = checkout.shop.order
    later = await client.post("/v1/orders", {**order, "payment": "later"})
    clock.off_seconds = -100 * DAY_SECONDS  # equivalent to a database clock that is ahead
    await until_the_clock_is(client, "behind")
    expire = "UPDATE orders.orders SET expires_at = clock_timestamp() WHERE order_id = $1"
    await checkout.db.execute(expire, UUID(later["order_id"]))
    for _ in range(3):  # some rounds of the scheduler, every 0.1 s
        await until_the_clock_is(client, "behind")
    assert (await client.get(f"/v1/orders/{later['order_id']}"))["status"] == "PENDING_PAYMENT"
    clock.off_seconds = 0

    async def expired() -> bool:
        return bool((await client.get(f"/v1/orders/{later['order_id']}"))["status"] == "EXPIRED")

    await eventually(expired, PATIENCE_SECONDS, "an expired order")


@pytest.mark.parametrize("name", ["product", "coupon", "balance"])
async def test_readiness_names_a_wrong_clock_and_the_participant_keeps_serving(
    database: Database, clock: Clock, name: str
) -> None:
    async with serving(name, migrate_service(name, database)) as client:
        await until_the_clock_is(client, "ok")
        clock.off_seconds = 3600
        await until_the_clock_is(client, "ahead of")
        assert (await client.get("/internal/v1/books")) is not None


async def test_nothing_is_pruned_while_the_clocks_disagree(database: Database, clock: Clock) -> None:
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
