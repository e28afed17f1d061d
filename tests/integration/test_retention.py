"""What a participant deletes of past orders, what it then refuses, and what it still undoes."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib import import_module
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
import pytest_asyncio

from services.order.settings import Settings
from shared import pruning
from shared.ids import uuid7
from shared.postgres.connections import Pool
from shared.pruning import Pruner, Pruning
from tests.infrastructure.databases import Database
from tests.infrastructure.services import SCHEMAS, Client, migrate_service, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAST, RECENT = timedelta(days=8), timedelta(days=6)
DAYS = 7


def order_of_age(age: timedelta) -> str:
    """Return the id of an order that was placed this long ago."""
    milliseconds = int((datetime.now(UTC) - age).timestamp() * 1000)
    return str(UUID(int=milliseconds << 80 | uuid7().int & (1 << 80) - 1))


@dataclass(frozen=True, slots=True)
class Participant:
    """One participant: its client, its database, and a do and an undo of a resource."""

    name: str
    client: Client
    db: asyncpg.Connection
    pool: Pool

    @property
    def schema(self) -> str:
        return SCHEMAS[self.name]

    async def something(self) -> str:
        """Create a resource for one order."""
        name = f"thing-{uuid4()}"
        if self.name == "product":
            await self.client.post("/v1/products", {"product_id": name, "name": "Thing", "price": 1, "stock": 1})
        elif self.name == "coupon":
            await self.client.post("/v1/coupons", {"coupon_id": name, "user_id": "ann", "kind": "fixed", "value": 1})
        else:
            await self.client.post(f"/v1/accounts/{name}/charges", {"amount": 1})
        return name

    def do(self, order: str, thing: str) -> Mapping[str, Any]:
        """Return the do."""
        if self.name == "product":
            lines = [{"product_id": thing, "quantity": 1}]
            return {"type": "hold_stock", "order_id": order, "lines": lines}
        if self.name == "coupon":
            use = {"coupon_id": thing, "user_id": "ann", "subtotal_amount": 10}
            return {"type": "reserve_coupon", "order_id": order, **use}
        return {"type": "debit", "order_id": order, "attempt": 1, "user_id": thing, "amount": 1}

    def undo(self, order: str) -> Mapping[str, Any]:
        """Return the undo."""
        kind = {"product": "restore_stock", "coupon": "release_coupon", "balance": "refund"}[self.name]
        return {"type": kind, "order_id": order}

    async def pruned(self) -> None:
        """Prune past orders."""
        gates = import_module(f"services.{self.name}.store").GATES
        raising = partial(gates.raise_horizon, days=DAYS)
        await Pruner(self.pool, [Pruning("gates", UUID(int=0), gates.prune_gates)], raising).prune_all()

    async def remembers(self, order: str) -> list[int]:
        """Return how many gates and outcomes an order has."""
        query = "SELECT count(*) FROM {}.{} WHERE order_id = $1"
        return [await self.db.fetchval(query.format(self.schema, table), order) for table in ("gates", "outcomes")]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["product", "coupon", "balance"])
async def participant(request: pytest.FixtureRequest, database: Database) -> AsyncIterator[Participant]:
    """Yield each participant."""
    url = migrate_service(request.param, database)
    db = await asyncpg.connect(database.url)
    async with serving(request.param, url) as client, Pool(Settings(database_url=url), "test") as pool:
        yield Participant(request.param, client, db, pool)
    await db.close()


async def test_orders_before_the_horizon_are_pruned_refused_and_undone(participant: Participant) -> None:
    order, thing = order_of_age(PAST), await participant.something()
    (applied,) = await participant.client.command(participant.do(order, thing))
    assert applied["outcome"] == "applied"
    held = await participant.client.holds(order)
    await participant.pruned()
    assert await participant.remembers(order) == [0, 0]

    (late,) = await participant.client.command(participant.do(order, thing))
    assert late["outcome"] == "refused"
    assert late["problem"]["type"] == "/problems/fenced"
    assert await participant.client.holds(order) == held != {}

    await participant.client.command(participant.undo(order))
    assert await participant.client.holds(order) == {}
    await participant.pruned()
    assert await participant.client.command(participant.undo(order)) == [{"outcome": "applied", "result": {}}]
    again = order_of_age(timedelta())
    (taken,) = await participant.client.command(participant.do(again, thing))
    assert taken["outcome"] == "applied"


async def test_first_do_on_an_order_before_the_horizon_is_refused(participant: Participant) -> None:
    await participant.pruned()
    order, young, thing = order_of_age(PAST), order_of_age(RECENT), await participant.something()
    late, early = await participant.client.command(participant.do(order, thing), participant.do(young, thing))
    assert (late["outcome"], early["outcome"]) == ("refused", "applied")
    assert await participant.client.holds(order) == {}


async def test_recent_orders_and_ids_without_a_time_are_kept(participant: Participant) -> None:
    undated = str(UUID(int=4 << 76 | uuid4().int & (1 << 64) - 1))  # lower than any horizon, and of version 4
    kept = [order_of_age(RECENT), undated]
    for order in kept:
        await participant.client.command(participant.do(order, await participant.something()))
    await participant.pruned()
    assert [await participant.remembers(order) for order in kept] == [[1, 1], [1, 1]]


async def test_two_concurrent_prunings_clear_a_backlog_except_locked_rows(
    participant: Participant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "BATCH_MAX", 3)
    orders = [order_of_age(PAST) for _ in range(20)]
    await participant.client.command(*(participant.undo(order) for order in orders))
    lock = f"SELECT 1 FROM {participant.schema}.gates WHERE order_id = $1 FOR UPDATE"
    async with participant.db.transaction():
        await participant.db.execute(lock, orders[7])
        async with asyncio.timeout(10):  # the prune must not wait for the lock
            await asyncio.gather(participant.pruned(), participant.pruned())
    assert [order for order in orders if await participant.remembers(order) != [0, 0]] == [orders[7]]
    await participant.pruned()
    assert await participant.remembers(orders[7]) == [0, 0]
